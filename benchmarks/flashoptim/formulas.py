"""AdamW with 24-bit weights and 8-bit moments as the package flashoptim computes it, in torch and in own words.

FlashOptim, Gonzalez Ortiz et al. 2026. Weights are a bfloat16 and what rounding took, in 127ths of half a last place.
Moments are 8 bits of their share of the largest in a group of 32, whose size is kept in float16: the first after
2 u / (1 + |u|), the second as its square root. Everything is rounded to nearest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

GROUP = 32
LEAST = 1e-12  # that a group's largest counts as


@dataclass
class State:
    """What a parameter has: bfloat16 and int8 of the weight, codes of both moments, scales of their groups."""

    param: Tensor
    errors: Tensor
    mom: Tensor
    mom_scales: Tensor
    var: Tensor
    var_scales: Tensor
    step: int = 0

    @classmethod
    def of(cls, param: Tensor) -> "State":
        """Return the state of a bfloat16 parameter before the first step; the parameter itself is trained."""
        groups = -(-param.numel() // GROUP)
        zeros = [torch.zeros(param.shape, dtype=kind) for kind in (torch.int8, torch.int8, torch.uint8)]
        scales = [torch.zeros(groups, dtype=torch.float16) for _ in range(2)]
        return cls(param, zeros[0], zeros[1], scales[0], zeros[2], scales[1])

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is kept between steps, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def weight(self) -> Tensor:
        """Return the weight of 24 bits in float32."""
        return joined(self.param, self.errors)

    def second(self) -> Tensor:
        """Return the second moment in float32."""
        return second_of(self.var, self.var_scales)


def step(state: State, grad: Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
    """Take one step of AdamW without decay.

    Args:
        state: is changed.
        grad: bfloat16, in the shape of the parameter.
        lr: learning rate.
        betas: of both moments.
        eps: added to the root.
    """
    state.step += 1
    g = grad.float()
    first, second, rate, small = (torch.tensor(value) for value in (*betas, lr, eps))
    m = first_of(state.mom, state.mom_scales) * first + g * (1 - first)
    v = second_of(state.var, state.var_scales) * second + g * g * (1 - second)
    gone = [1 - torch.tensor(np.float32(np.float64(beta) ** state.step)) for beta in (first.numpy(), second.numpy())]
    x = joined(state.param, state.errors) - rate * (m / gone[0]) / (root(v / gone[1]) + small)
    state.param.copy_(x)
    state.errors.copy_(errors_of(x, state.param))
    share, state.mom_scales[:] = shares(m)
    state.mom.copy_(whole(2 * share / (1 + share.abs()) * 127, m))
    share, state.var_scales[:] = shares(root(v))
    state.var.copy_(whole(share * 255, v))


def root(x: Tensor) -> Tensor:
    """Return the square root, rounded once; torch's own in float32 is one last place off now and then."""
    return x.double().sqrt().float()


def half_place(param: Tensor) -> Tensor:
    """Return half of the last place of bfloat16 numbers, as exponents of two."""
    exponent = (param.view(torch.int16).to(torch.int32) >> 7) & 0xFF
    return exponent.clamp(min=1) - 127 - 7 - 1


def errors_of(x: Tensor, param: Tensor) -> Tensor:
    """Return what rounding float32 to bfloat16 took, int8 in 127ths of half a last place."""
    share = torch.ldexp(x - param.float(), -half_place(param)).clamp(-1, 1) * 127
    return (share.abs() + 0.5).floor().copysign(share).to(torch.int8)


def joined(param: Tensor, errors: Tensor) -> Tensor:
    """Return the float32 that a bfloat16 and its error stand for."""
    return param.float() + torch.ldexp(errors.float() / 127, half_place(param))


def first_of(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the first moment that codes and scales stand for."""
    share = codes.float() / 127
    return share / (2 - share.abs()) * spread(scales, codes)


def second_of(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the second moment that codes and scales stand for."""
    return (codes.float() / 255 * spread(scales, codes)).square()


def spread(scales: Tensor, like: Tensor) -> Tensor:
    """Return the scale of each element's group, in float32 and a shape."""
    return scales.float().repeat_interleave(GROUP)[: like.numel()].view(like.shape)


def shares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares [groups, 32] that values are of the largest in their group, and those largest."""
    groups = pad(x.flatten(), (0, -x.numel() % GROUP)).view(-1, GROUP)
    largest = groups.abs().amax(1).clamp(min=LEAST)
    return groups / largest[:, None], largest


def whole(levels: Tensor, like: Tensor) -> Tensor:
    """Return levels [groups, 32] rounded to nearest, halves up, in a shape."""
    return (levels + 0.5).floor().flatten()[: like.numel()].view(like.shape)
