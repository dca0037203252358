"""The optimizers of other packages, each with its own defaults."""

from dataclasses import dataclass
from typing import Protocol
from unittest.mock import patch

import torch
from torch import nn

from .measure import LR, Subject
from .sets import Model

Params = dict[str, nn.Parameter]


@dataclass(frozen=True)
class Module:
    """As much of a module as lomo-optim looks at."""

    params: Params

    def named_parameters(self):
        """Return names and parameters."""
        return self.params.items()

    def parameters(self):
        """Return the parameters."""
        return self.params.values()


class Stepping(Protocol):
    """What steps, as torch's optimizers do."""

    def step(self) -> object:
        """Update every parameter."""


def of(optimizer: Stepping) -> Subject:
    """Return a torch optimizer, or what steps as one, as a subject."""
    return Subject(optimizer.step, optimizer)


def adamw(params: Params, llama: Model, **options) -> Subject:
    """Return torch's AdamW.

    Args:
        params: by name.
        llama: their sizes.
        **options: which choose its implementation.
    """
    return of(torch.optim.AdamW(params.values(), lr=LR, **options))


def sgd(params: Params, llama: Model) -> Subject:
    """Return torch's fused SGD."""
    return of(torch.optim.SGD(params.values(), lr=LR, fused=True))


def adafactor(params: Params, llama: Model, foreach: bool) -> Subject:
    """Return torch's Adafactor with an eps that works in every dtype.

    Its default stops bf16 weights, transformers' makes NaN.

    Args:
        params: by name.
        llama: their sizes.
        foreach: which of its implementations.
    """
    return of(torch.optim.Adafactor(params.values(), lr=LR, eps=(1e-15, 1e-3), foreach=foreach))


def transformers_adafactor(params: Params, llama: Model) -> Subject:
    """Return transformers' Adafactor at a given learning rate."""
    from transformers.optimization import Adafactor

    return of(Adafactor(params.values(), lr=LR, relative_step=False))


def muon(params: Params, llama: Model) -> Subject:
    """Return Muon on the layers' matrices, fused AdamW on the rest, as its authors use it."""
    inner, outer = divide(params)
    both = torch.optim.Muon(inner, lr=LR), torch.optim.AdamW(outer, lr=LR, fused=True)
    return Subject(lambda: [optimizer.step() for optimizer in both], both)


def lomo(params: Params, llama: Model) -> Subject:
    """Return LOMO by its authors: its hook updates every parameter that has a gradient."""
    from lomo_optim import Lomo

    optimizer = Lomo(Module(params), lr=LR)
    return Subject(lambda: optimizer.grad_func(0), optimizer)


def adalomo(params: Params, llama: Model) -> Subject:
    """Return AdaLomo by its authors, without loss scaling; on CPU `.cuda()`, which it calls on state, does nothing."""
    from lomo_optim import AdaLomo

    on_cuda = next(iter(params.values())).is_cuda
    with patch.object(torch.Tensor, "cuda", torch.Tensor.cuda if on_cuda else lambda tensor: tensor):
        optimizer = AdaLomo(Module(params), lr=LR, loss_scale=0)

    def step():
        optimizer.step_num += 1
        optimizer.grad_func(0)

    return Subject(step, optimizer)


def adam_mini(params: Params, llama: Model) -> Subject:
    """Return Adam-mini by its authors."""
    from adam_mini import Adam_mini

    sizes = {"dim": llama.hidden, "n_heads": llama.heads, "n_kv_heads": llama.kv_heads}
    return of(Adam_mini(list(params.items()), lr=LR, verbose=False, **sizes))


def came(params: Params, llama: Model) -> Subject:
    """Return CAME by its authors."""
    from came_pytorch import CAME

    return of(CAME(params.values(), lr=LR))


def galore(params: Params, llama: Model) -> Subject:
    """Return GaLore by its authors with a quarter of the width as rank."""
    from galore_torch import GaLoreAdamW

    low = {"rank": max(1, llama.hidden // 4), "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    return of(GaLoreAdamW(projected(params, low), lr=LR, no_deprecation_warning=True))


def apollo(params: Params, llama: Model, **options) -> Subject:
    """Return APOLLO by its authors.

    Args:
        params: by name.
        llama: their sizes.
        **options: what its groups of matrices have otherwise.
    """
    from apollo_torch import APOLLOAdamW

    rank = {"rank": max(1, llama.hidden // 4), "update_proj_gap": 200, "proj_type": "std", "proj": "random"}
    return of(APOLLOAdamW(projected(params, rank | {"scale": 1, "scale_type": "channel"} | options), lr=LR))


def bitsandbytes(params: Params, llama: Model) -> Subject:
    """Return bitsandbytes' 8-bit AdamW."""
    from bitsandbytes.optim import AdamW8bit

    return of(AdamW8bit(params.values(), lr=LR))


def torchao(params: Params, llama: Model) -> Subject:
    """Return torchao's 8-bit AdamW."""
    from torchao.optim import AdamW8bit

    return of(AdamW8bit(params.values(), lr=LR))


def optimi(params: Params, llama: Model) -> Subject:
    """Return optimi's AdamW, with its Kahan summation of bf16 weights."""
    from optimi import AdamW

    return of(AdamW(params.values(), lr=LR, weight_decay=0))


def deepspeed(params: Params, llama: Model) -> Subject:
    """Return DeepSpeed's AdamW for a CPU, with state in float32; making it compiles its kernel if none is kept."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return of(DeepSpeedCPUAdam(params.values(), lr=LR, weight_decay=0))


def divide(params: Params) -> tuple[list, list]:
    """Return the matrices of the layers, and everything else."""
    inner = [p for name, p in params.items() if ".layers." in name and p.ndim == 2]
    outer = [p for name, p in params.items() if ".layers." not in name or p.ndim != 2]
    return inner, outer


def projected(params: Params, options: dict) -> list[dict]:
    """Return param groups: the layers' matrices with `options`, the rest without."""
    inner, outer = divide(params)
    return [{"params": outer}, {"params": inner, **options}]
