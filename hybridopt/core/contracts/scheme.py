"""What a quantization scheme is asked for."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import HybridOptError
from .coded import PackedWeight
from .values import Shape

__all__ = ["Make", "Room", "Scheme"]

Make = Callable[[Tensor], Tensor]  # a tensor to one that takes its place
Room = Callable[[tuple[Any, ...], dict[str, Any]], int]  # positional and named arguments of an operation to bytes


class Scheme(Protocol):
    """How a weight is kept as codes and constants instead of floats.

    That of a linear layer is a matrix [out, in], and `quantize` puts another layer in its place. Where weights are of
    modules that compute by themselves (stacks of experts, subclasses of Linear), these stay, and `pack` makes codes.

    What concerns a whole model (which layers, in which order, with which errors) is done by
    `hybridopt.model.quantization`, the same for all schemes. A scheme is a class without options; subclass this one
    for the defaults.
    """

    name: str
    """As users write it, with hyphens: "int8-trainable"."""

    title: str
    """Short, for tables: "AdamW on LoRA, {title} base"."""

    library: str = ""
    """The package that it cannot work without, as it is imported and installed; "" for none."""

    bits: int
    """Bits of a code."""

    trains: bool = False
    """Are the codes trained? Otherwise they are frozen, and adapters or scales are trained."""

    codes_dtype: torch.dtype = torch.uint8
    """The dtype of codes: of trained ones a store is asked whether it fits."""

    values_seen: bool = False
    """Does whoever reads the weight of a layer see values? Otherwise layers whose weight others read are left out."""

    in_place: bool = False
    """Does `quantize` change the layer itself? Otherwise hooks on the layer would be lost, and are refused."""

    largest: float = torch.finfo(torch.float32).max
    """The largest magnitude of a weight that it can take."""

    reentrant: bool = False
    """Do its layers free their inputs under reentrant checkpointing only?"""

    moves_scales: bool = False
    """Do scales move from the weight to the layer in the first forward pass?"""

    shards: bool = False
    """May FSDP2 cut the codes of its layers anywhere? The layers know all that the codes stand for, then."""

    tables: frozenset[str] = frozenset()
    """Parts that several weights may share, small ones: they stay on the device when codes rest elsewhere."""

    kernels: Mapping[str, Room] = MappingProxyType({})
    """Operations of its layers that take more memory on a GPU than they hand out, by torch's names."""

    cpu_kernels: Mapping[str, Room] = MappingProxyType({})
    """The same on a CPU."""

    def cuts(self, shape: Shape, ranks: int) -> bool:
        """Return whether FSDP2 may cut a weight of this shape between so many ranks."""
        return self.shards and len(shape) == 2

    def covers(self, layer: nn.Module, device: torch.device) -> bool:
        """Return whether this linear layer, moved to `device`, would compute correctly once quantized."""
        return True

    @abstractmethod
    def quantize(self, layer: nn.Module) -> nn.Module:
        """Return a layer with the same bias and training mode whose weight is kept as codes, or `layer` changed."""

    @abstractmethod
    def twin(self, layer: nn.Module) -> nn.Module:
        """Return what `quantize` would make of a layer on the meta device: the same tensors, without values."""

    def assembled(self, layer: nn.Module, kept: Mapping[str, Tensor]) -> nn.Module:
        """Return what `quantize` made of `layer`, with the very tensors that `kept` returned then or their copies.

        Args:
            layer: not quantized; its weight may be on the meta device.
            kept: by name.
        """
        raise HybridOptError(f"quantization={self.name!r} cannot make layers of codes that were kept in files")

    def packs(self, weight: Tensor) -> bool:
        """Return whether `pack` can keep a weight of this shape, of at least two dimensions."""
        return False

    def pack(self, weight: Tensor) -> PackedWeight:
        """Return what takes the place of a float weight, of the same shape; on the meta device it has no values."""
        raise HybridOptError(f"quantization={self.name!r} keeps the weights of linear layers alone")

    def unpack(self, parts: dict[str, Tensor], start: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return values that `pack` of a frozen scheme has made codes of, as a plain tensor.

        Args:
            parts: codes and constants of the whole weight, by name.
            start: the first of the values that are wanted, in the order of the flattened weight.
            shape: of the values that are wanted, which lie one after the other.
            dtype: of the values.
        """
        raise HybridOptError(f"quantization={self.name!r} keeps the weights of linear layers alone")

    def values(self, layer: Any, dtype: torch.dtype) -> Tensor:
        """Return the matrix [out, in] that the frozen weight of `layer`, quantized by this scheme, stands for.

        Args:
            layer: whose scales may be opened.
            dtype: of the values.
        """
        return self.unpack(self.parts(layer.weight, layer), 0, self.shape(layer.weight), dtype)

    def mark_(self, model: nn.Module) -> None:
        """Set on a model whose layers were quantized what other libraries look for."""

    def unmark_(self, model: nn.Module) -> None:
        """Undo `mark_`, once no layer of `model` is quantized any more."""

    def guard_(self, model: nn.Module) -> None:
        """Switch off whatever would spoil this scheme's codes later on; raise HybridOptError if it has happened."""

    @abstractmethod
    def owns(self, weight: Tensor) -> bool:
        """Return whether `weight` is kept by this scheme, on whatever device and whoever has quantized it.

        Asked of every weight but parameters of plain floats that have no attributes of their own.
        """

    def shape(self, weight: Tensor) -> Shape:
        """Return the shape of the matrix that `weight` stands for."""
        return tuple(weight.shape)

    @abstractmethod
    def parts(self, weight: Tensor, layer: nn.Module | None = None) -> dict[str, Tensor]:
        """Return the codes and constants that `weight` consists of, by name.

        Constants that moved to the layer are taken from `layer`; without it they are empty tensors of their shape.
        """

    def beside(self, layer: nn.Module) -> list[Tensor]:
        """Return every tensor that hangs on the layer or its weight and is no parameter or buffer of the layer."""
        return []

    def carry_(self, old: Tensor, new: Tensor, make: Make) -> None:
        """Hang on `new`, which takes the place of the weight `old`, what hangs on that.

        Args:
            old: a weight of this scheme.
            new: a plain parameter of the same shape and dtype, with other memory or none.
            make: returns what takes the place of a tensor.
        """

    def relink_(self, layer: nn.Module, make: Make) -> None:
        """Replace what hangs on the layer itself by `make` of it, or by what hangs on its new weight."""

    def faked(self, device: str) -> AbstractContextManager[object]:
        """Return a context within which layers run on fake tensors, without values, as they would on `device`."""
        return nullcontext()

    @abstractmethod
    def nbytes(self, shape: Shape) -> int:
        """Return the bytes of all `parts` of a weight of this shape, known before it is quantized or packed."""

    def scales(self, layer: nn.Module) -> dict[str, Tensor]:
        """Return what can be trained while the codes stay (QZO), by name; none for schemes without."""
        return {}

    def scale_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of `scales` once they are opened, by name, for a weight of this shape."""
        return {}

    def open_scales_(self, layer: nn.Module) -> None:
        """Make the scales of `layer` float32 nn.Parameters that change nothing in its answers; once is enough."""
        raise HybridOptError(f"quantization={self.name!r} has no scales that could be trained")

    def kept(self, layer: Any) -> dict[str, Tensor]:
        """Return what `restore_` wants of the frozen weight of `layer`: its `parts` without opened scales, by name.

        Tensors without elements stand for a dtype.
        """
        opened = self.scales(layer)
        return {name: x for name, x in self.parts(layer.weight, layer).items() if name not in opened}

    def restore_(self, layer: Any, kept: Mapping[str, Tensor]) -> None:
        """Make the weight of `layer`, quantized by this scheme, what it was when `kept` was called; scales stay.

        Args:
            layer: whose `kept` has the same names, shapes and dtypes; those of tensors without elements may differ.
            kept: on any device.
        """
        own = self.kept(layer)
        with torch.no_grad():
            for name, x in kept.items():
                own[name].copy_(x)
