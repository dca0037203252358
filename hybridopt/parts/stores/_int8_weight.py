"""A weight that is kept as 8-bit codes, and is a float tensor to everything else."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from ...core.contracts import CodedWeight
from ...core.errors import HybridOptError
from ...core.numerics.grids import GROUP, encode, groups, piece
from ...core.numerics.rounding import Seeding
from ._int8_codes import TOP, Int8Codes, straight, turned
from ._int8_ops import OWN

__all__ = ["Int8Weight"]

PIECE = 1 << 24  # elements quantized at a time, which takes up to 12 bytes for each


class Int8Weight(CodedWeight):
    """A matrix, or a stack of matrices, as uint8 codes, with a scale (float32) and a zero (uint8) for 256 of them.

    To autograd, modules, optimizers and PEFT it is a float parameter, under its own name in its own module: gradients
    arrive as usual, in its dtype. Whatever operation needs the values dequantizes them for its own duration, so what
    autograd saves for backward are codes. (A parameter of integer dtype cannot require gradients, and a float handle
    beside buffers of codes would have to be kept together with them through copies, casts and devices.) Casts and
    views share the codes; in-place changes round to nearest, `write_` at random.

    Args:
        codes: uint8 [..., m, n].
        scale: size of a level, float32 [groups].
        zero: code of the value 0, uint8 [groups].
        dtype: of the values.
        transposed: the weight is [..., n, m], its codes are not.
        room: of a shard the rows that every rank has room for; the last ranks may have fewer.
    """

    pieces: int | None = None
    """Rows of each of the pieces that it was cut into last, as `fully_shard` does."""

    @staticmethod
    def __new__(
        cls,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        dtype: torch.dtype,
        transposed: bool = False,
        room: int | None = None,
    ) -> "Int8Weight":
        seen = codes.transpose(-1, -2) if transposed else codes
        options: dict[str, Any] = {"strides": seen.stride(), "dtype": dtype, "device": codes.device}
        made: Int8Weight = Tensor._make_wrapper_subclass(cls, seen.shape, **options)
        return made

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        zero: Tensor,
        dtype: torch.dtype,
        transposed: bool = False,
        room: int | None = None,
    ) -> None:
        self.codes, self.scale, self.zero, self.transposed, self.room = codes, scale, zero, transposed, room

    @staticmethod
    def quantize(x: Tensor) -> "Int8Weight":
        """Round a dense float matrix to nearest, piece by piece, in less room than the weight itself takes."""
        count = -(-x.numel() // GROUP)
        codes, scale, zero = (torch.empty(s, dtype=d, device=x.device) for s, d in _layout(x.shape, count))
        out, flat = Int8Weight(codes, scale, zero, x.dtype), x.detach().reshape(-1)
        step = piece(x.numel(), PIECE)
        for start in range(0, 0 if x.is_meta else x.numel(), step):
            part = out.view(-1)[start : start + step]
            assert isinstance(part, Int8Weight)
            part.write_(flat[start : start + step].float())
        return out

    @staticmethod
    def on_grids(x: Tensor, scale: Tensor, zero: Tensor) -> "Int8Weight":
        """Return the weight whose values are `x` on grids that are known already: that which `x` was made of.

        Args:
            x: float [..., m, n].
            scale: float32 [groups].
            zero: uint8 [groups].
        """
        scale, zero = scale.to(x.device), zero.to(x.device)
        levels = encode(groups(x.float()), scale, zero).round_().clamp_(0, TOP)
        codes = levels.view(-1)[: x.numel()].view(x.shape).to(torch.uint8)
        return Int8Weight(codes, scale, zero, x.dtype)

    def parts(self) -> dict[str, Tensor]:
        """Return the plain tensors that are kept, by name: "codes", "scale", "zero"."""
        return {"codes": self.codes, "scale": self.scale, "zero": self.zero}

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the values as a plain tensor, in `dtype` or the weight's own."""
        return self._tensors().dequantize(dtype or self.dtype)

    def opened(self) -> Callable[[Sequence[Tensor]], Int8Codes]:
        """Return what makes `Int8Codes` of the values of `parts`."""
        return turned if self.transposed else straight

    def like(self, codes: Tensor, scale: Tensor, zero: Tensor, **changes: Any) -> "Int8Weight":
        """Return a weight of other parts, of the same dtype and orientation but for `changes`.

        Args:
            codes: uint8 [m, n].
            scale: float32 [groups].
            zero: uint8 [groups].
            **changes: dtype, transposed, room.
        """
        told: dict[str, Any] = {"dtype": self.dtype, "transposed": self.transposed, "room": self.room} | changes
        return Int8Weight(codes, scale, zero, **told)

    def of(self, parts: dict[str, Tensor]) -> "Int8Weight":
        """Return a weight of other parts, of the same dtype and orientation."""
        return self.like(**parts)

    def read(self, parts: Mapping[str, Tensor], values: Tensor | None) -> "Int8Weight | None":
        """Return the weight of codes, or of floats that were made of codes, and their grids."""
        if "codes" in parts or values is None or not {"scale", "zero"} <= parts.keys():
            return self.of(dict(parts)) if len(parts) == len(self.parts()) else None
        return Int8Weight.on_grids(values.to(self.dtype), parts["scale"], parts["zero"])

    def write_(self, x: Tensor, seed: Seeding = None) -> None:
        """Take new float32 values on grids of their own: rounded at random by `seed`, or to nearest without."""
        self._tensors().write_(x, seed)

    def shard(self, ranks: int, rank: int) -> "Int8Weight":
        """Return a copy of the rows that a rank gets where FSDP2 cuts the weight.

        Args:
            ranks: so many.
            rank: which of them.
        """
        room = -(-len(self) // ranks)
        pieces: Any = torch.split(self, room)
        made: Int8Weight = pieces[rank].clone() if rank < len(pieces) else self.zeros(0)
        made.room = room
        return made

    def zeros(self, rows: int) -> "Int8Weight":
        """Return a weight of so many rows of the same width, all zero."""
        shape = (rows, *self.codes.shape[1:])
        count = -(-math.prod(shape) // GROUP)
        return self.like(self.codes.new_zeros(shape), self.scale.new_zeros(count), self.zero.new_zeros(count))

    def bytes_of(self, rows: int) -> int:
        """Return the bytes of codes and constants of so many rows."""
        count = rows * math.prod(self.codes.shape[1:])
        return count + 5 * -(-count // GROUP)

    def first_rows(self, rows: int) -> "Int8Weight":
        """Return the first rows, as a view; if their last group goes on, nothing may be written to them."""
        count = -(-rows * math.prod(self.codes.shape[1:]) // GROUP)
        return self.like(self.codes[:rows], self.scale[:count], self.zero[:count])

    def fsdp_pre_all_gather(self, mesh: Any) -> tuple[tuple[Tensor, ...], None]:
        """Return what FSDP2 gathers of a shard, the same size on all ranks: codes and constants, 1.02 bytes a weight.

        mesh: of the ranks that gather.
        """
        whole = self
        if self.room is not None and len(self) < self.room:
            whole = self.zeros(self.room)
            whole.first_rows(len(self)).copy_(self)
        return tuple(whole.parts().values()), None

    def fsdp_post_all_gather(
        self, gathered: tuple[Tensor, ...], told: None, dtype: torch.dtype, *, out: Tensor | None = None
    ) -> tuple["Int8Weight", tuple[Tensor, ...]] | None:
        """Return the weight of what FSDP2 has gathered, and the tensors that it may free.

        Args:
            gathered: codes and constants of all ranks, one after the other.
            told: nothing.
            dtype: of the values.
            out: the weight that was returned first: it has those tensors, filled anew.
        """
        codes, scale, zero = gathered
        return None if out is not None else (Int8Weight(codes, scale, zero, dtype), gathered)

    def _tensors(self) -> Int8Codes:
        return Int8Codes(self.codes, self.scale, self.zero, self.transposed)

    def __repr__(self) -> str:  # type: ignore[override]  # torch's has an option of its own
        return f"Int8Weight(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[torch.dtype, bool, int | None]]:
        return ["codes", "scale", "zero"], (self.dtype, self.transposed, self.room)

    @classmethod
    def __tensor_unflatten__(
        cls, inner: dict[str, Tensor], meta: tuple[torch.dtype, bool, int | None], size: object, stride: object
    ) -> "Int8Weight":
        return cls(**inner, dtype=meta[0], transposed=meta[1], room=meta[2])

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch asks for it

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub declares no classmethod
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = OWN.get(func)
        made = own(args[0], *args[1:], **kwargs) if own and isinstance(args[0], cls) else None
        if made is not None:
            return made
        if func._schema.is_mutable:
            return _change(func, args, kwargs)
        if func.is_view and all(x.ndim < 3 for x in args if isinstance(x, cls)):
            raise HybridOptError(
                f"{func} asks for a view of a weight of quantization='int8-trainable', which has none; take "
                "weight.dequantize(), or train without quantization"
            )
        return func(*_plain(args), **_plain(kwargs))


def _plain(values: Any) -> Any:
    return tree_map_only(Int8Weight, Int8Weight.dequantize, values)


def _change(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry out an operation that writes: on plain tensors as it is, on a weight by way of its values in float32."""
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


def _layout(shape: torch.Size, count: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
    return (tuple(shape), torch.uint8), ((count,), torch.float32), ((count,), torch.uint8)
