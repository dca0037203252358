"""A weight of any shape that is kept as the codes of a frozen scheme, and is a float tensor to everything else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...core.contracts import PackedWeight, Scheme, Shape
from ...core.errors import HybridOptError
from ._frozen_views import VIEWS

__all__ = ["Form", "FrozenWeight"]


@dataclass(frozen=True)
class Form:
    """Which values of its codes a weight stands for.

    Args:
        scheme: by which the codes are read.
        whole: number of values that are kept.
        shape: of the weight, before it is transposed.
        dtype: of the values.
        start: the first of the kept values that it stands for.
        transposed: are the last two dimensions swapped?
    """

    scheme: Scheme
    whole: int
    shape: Shape
    dtype: torch.dtype
    start: int = 0
    transposed: bool = False

    @property
    def seen(self) -> Shape:
        """Return the shape as everybody sees it."""
        *most, rows, columns = self.shape if self.transposed else (*self.shape, 1, 1)
        return (*most, columns, rows) if self.transposed else self.shape

    @property
    def strides(self) -> tuple[int, ...]:
        """Return the strides that the values would have in memory."""
        own = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        return (*own[:-2], own[-1], own[-2]) if self.transposed else tuple(own)

    @property
    def is_whole(self) -> bool:
        """Return whether these are all values that are kept, in their order."""
        return not self.transposed and math.prod(self.shape) == self.whole


class FrozenWeight(PackedWeight):
    """A weight as codes, for modules that compute with it by themselves: experts, subclasses of Linear.

    Whatever operation needs the values dequantizes them for its own duration. Slices, single experts and transposed
    views share the codes and are dequantized alone, so that autograd keeps codes, never values, for the backward pass.
    It requires no gradient, and refuses to be written to.

    Args:
        kept: codes and constants, by name.
        form: which values these are.
    """

    @staticmethod
    def __new__(cls, kept: dict[str, Tensor], form: Form) -> "FrozenWeight":
        """Return a tensor of the form's shape and dtype that has no memory of its own."""
        options: dict[str, Any] = {"strides": form.strides, "dtype": form.dtype, "device": kept["codes"].device}
        made: FrozenWeight = Tensor._make_wrapper_subclass(cls, form.seen, **options)
        return made

    def __init__(self, kept: dict[str, Tensor], form: Form) -> None:
        self.names, self.form = tuple(kept), form
        for name, part in kept.items():
            setattr(self, _attribute(name), part)

    def parts(self) -> dict[str, Tensor]:
        """Return the plain tensors that are kept, by name: "codes", and the scheme's constants."""
        return {name: getattr(self, _attribute(name)) for name in self.names}

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the values as a plain tensor, in `dtype` or the weight's own."""
        form = self.form
        x = form.scheme.unpack(self.parts(), form.start, form.shape, dtype or self.dtype)
        return x.transpose(-1, -2) if form.transposed else x

    def of(self, parts: dict[str, Tensor]) -> "FrozenWeight":
        """Return a weight of the same form that is kept as other parts."""
        return FrozenWeight(parts, self.form)

    def read(self, parts: Mapping[str, Tensor], values: Tensor | None) -> PackedWeight | None:
        """Return the weight of codes and constants, or one that is made of floats in full precision."""
        if parts or values is None or not values.is_floating_point() or tuple(values.shape) != tuple(self.shape):
            return super().read(parts, values)
        return self.form.scheme.pack(values.detach().to(self.device, self.dtype))

    def seen_as(self, **changes: Any) -> "FrozenWeight":
        """Return a weight that shares the parts, of another form."""
        return FrozenWeight(self.parts(), replace(self.form, **changes))

    def __repr__(self) -> str:  # type: ignore[override]  # torch's has an option of its own
        return f"FrozenWeight({self.form.scheme.name}, shape={tuple(self.shape)}, dtype={self.dtype})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[tuple[str, ...], Form]]:
        return [_attribute(name) for name in self.names], (self.names, self.form)

    @classmethod
    def __tensor_unflatten__(
        cls, inner: dict[str, Tensor], meta: tuple[tuple[str, ...], Form], size: object, stride: object
    ) -> "FrozenWeight":
        return cls({name: inner[_attribute(name)] for name in meta[0]}, meta[1])

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch asks for it

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub declares no classmethod
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = VIEWS.get(func)
        made = own(args[0], *args[1:], **kwargs) if own and isinstance(args[0], cls) else None
        if made is not None:
            return made
        if func._schema.is_mutable and isinstance(args[0], cls):
            raise HybridOptError(
                f"{func} would write to a weight that quantization={args[0].form.scheme.name!r} has frozen; train "
                "adapters beside it, or load the model in full precision"
            )
        args, kwargs = tree_map_only(FrozenWeight, FrozenWeight.dequantize, (args, kwargs))
        return func(*args, **kwargs)


def _attribute(name: str) -> str:
    return f"_{name.replace('.', '_')}"
