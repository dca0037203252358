"""A weight that is kept as 8-bit codes, and is a float tensor to everything else."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from ...core.contracts import CodedWeight
from ...core.errors import HybridOptError
from ...core.numerics.grids import GROUP, decode, encode, grid, groups, piece
from ...core.numerics.rounding import Seed, stochastic_round
from ._int8_ops import OWN

__all__ = ["Int8Weight"]

TOP = 255
PIECE = 1 << 24  # elements quantized at a time, which takes up to 12 bytes for each


class Int8Weight(CodedWeight):
    """A matrix as codes, uint8 [m, n], with a scale (float32) and a zero point (uint8) for 256 elements in a row.

    To autograd, modules, optimizers and PEFT it is a float parameter, under its own name in its own module: gradients
    arrive as usual, in its dtype. Whatever operation needs the values dequantizes them for its own duration, so what
    autograd saves for backward are codes. (A parameter of integer dtype cannot require gradients, and a float handle
    beside buffers of codes would have to be kept together with them through copies, casts and devices.) Casts and
    views share the codes; in-place changes round to nearest, `write_` at random.
    """

    @staticmethod
    def __new__(cls, codes, scale, zero, dtype, transposed=False):
        seen = codes.t() if transposed else codes
        options = {"strides": seen.stride(), "dtype": dtype, "device": codes.device}
        return Tensor._make_wrapper_subclass(cls, seen.shape, **options)

    def __init__(self, codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype, transposed: bool = False):
        self.codes, self.scale, self.zero, self.transposed = codes, scale, zero, transposed

    @staticmethod
    def quantize(x: Tensor) -> "Int8Weight":
        """A dense float tensor, rounded to nearest piece by piece, in less room than the weight itself takes."""
        count = -(-x.numel() // GROUP)
        codes, scale, zero = (torch.empty(s, dtype=d, device=x.device) for s, d in _layout(x.shape, count))
        out, flat = Int8Weight(codes, scale, zero, x.dtype), x.detach().reshape(-1)
        step = piece(x.numel(), PIECE)
        for start in range(0, 0 if x.is_meta else x.numel(), step):
            out.view(-1)[start : start + step].write_(flat[start : start + step].float())
        return out

    def parts(self) -> dict[str, Tensor]:
        """The plain tensors that are kept, by name."""
        return {name: getattr(self, name) for name in self.__tensor_flatten__()[0]}

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The values as a plain tensor."""
        x = self._ungrouped(decode(groups(self.codes), self.scale, self.zero, dtype or self.dtype))
        return x.t() if self.transposed else x

    def like(self, codes: Tensor, scale: Tensor, zero: Tensor, **changes) -> "Int8Weight":
        """A weight of other parts, and as said in `changes`."""
        return Int8Weight(codes, scale, zero, **{"dtype": self.dtype, "transposed": self.transposed} | changes)

    def write_(self, x: Tensor, seed: Seed | int | None = None) -> None:
        """Take new float32 values on grids of their own: rounded at random by `seed`, or to nearest without."""
        x = groups(x.t() if self.transposed else x)
        scale, zero = grid(x, TOP)
        x = self._ungrouped(encode(x, scale, zero))
        self.codes.copy_((x.round() if seed is None else stochastic_round(x, seed)).clamp_(0, TOP))
        self.scale.copy_(scale)
        self.zero.copy_(zero)

    def _ungrouped(self, x):
        return x.view(-1)[: self.codes.numel()].view(self.codes.shape)

    def __repr__(self) -> str:
        return f"Int8Weight(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __tensor_flatten__(self):
        return ["codes", "scale", "zero"], (self.dtype, self.transposed)

    @classmethod
    def __tensor_unflatten__(cls, inner, meta, size, stride):
        return cls(**inner, dtype=meta[0], transposed=meta[1])

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        own = OWN.get(func)
        made = own(args[0], *args[1:], **kwargs) if own and isinstance(args[0], cls) else None
        if made is not None:
            return made
        if func._schema.is_mutable:
            return _change(func, args, kwargs)
        if func.is_view:
            raise HybridOptError(
                f"{func} asks for a view of a weight of quantization='int8-trainable', which has none; take "
                "weight.dequantize(), or train without quantization"
            )
        return func(*_plain(args), **_plain(kwargs))


def _plain(values):
    return tree_map_only(Int8Weight, Int8Weight.dequantize, values)


def _change(func, args, kwargs):
    """An operation that writes: on plain tensors as it is, on a weight by way of its values in float32."""
    target = args[0]
    if isinstance(target, Int8Weight):
        x, others = target.dequantize(torch.float32), (args[1:], kwargs)
        func(x, *_plain(others[0]), **_plain(others[1]))
        target.write_(x)
        return target
    if not isinstance(target, Tensor) and any(isinstance(x, Int8Weight) for x in tree_flatten(target)[0]):
        raise HybridOptError(
            f"{func} cannot write to weights of quantization='int8-trainable'; train them with hybridopt's optimizer"
        )
    return func(*_plain(args), **_plain(kwargs))


def _layout(shape, count):
    return (tuple(shape), torch.uint8), ((count,), torch.float32), ((count,), torch.uint8)
