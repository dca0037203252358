"""Which weights of a model are fetched together: those of each of its repeated layers."""

from collections.abc import Iterator

from torch import Tensor, nn

from ...core.contracts import PackedWeight, Piece, PlacedUnit
from ...core.errors import HybridOptError
from ...core.storages import same_storage
from ..quantization.owners import owner, parts
from ..roles import of_base

__all__ = ["layer_names", "pieces", "repeated", "small_parts", "units"]

LITTLE = 0.1  # of the weights of the largest list


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of the repeated layers of a model, as `repeated` does; raise HybridOptError without any."""
    found = repeated(model)
    if not found:
        raise HybridOptError(
            f"{type(model).__name__} has no list of layers (nn.ModuleList), of which one after the other could be "
            "fetched; leave placement out"
        )
    return found


def repeated(model: nn.Module, least: int = 2) -> list[str]:
    """Return the names of the repeated layers of a model, in its order; of a layer that is used again the first one.

    They are those of its lists of modules that lie in no other one, but for lists that hold little: an encoder and a
    decoder have one each.

    Args:
        model: of which they are the layers.
        least: modules of a list that counts.
    """
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and len(module) >= least and not inside:
            lists[name] = module
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in lists.items()}
    most = max(sizes.values(), default=0)
    layers: dict[nn.Module, str] = {}
    for name in (name for name, size in sizes.items() if size and size >= LITTLE * most):
        for number, layer in enumerate(lists[name]):
            layers.setdefault(layer, f"{name}.{number}")
    return list(layers.values())


def units(model: nn.Module, resident: int = 0) -> list[PlacedUnit]:
    """Return the units of a model: its layers but for the first `resident` ones.

    What is small and used all the time, such as the weights of norms, stays where it is, and so do adapters; so do
    weights that are used outside of their layer as well, such as tied ones.
    """
    names = layer_names(model)[resident:]
    found = [PlacedUnit(name, model.get_submodule(name), index) for index, name in enumerate(names)]
    shared, own = _shared(model), of_base(model)
    for unit in found:
        unit.pieces = [piece for piece in _pieces(unit, shared) if own(piece.weight)]
    return [unit for unit in found if unit.pieces]


def pieces(model: nn.Module, unit: PlacedUnit) -> list[Piece]:
    """Return the tensors of a unit as they are now: quantization may have put others in their place."""
    shared, own = _shared(model), of_base(model)
    return [piece for piece in _pieces(unit, shared) if own(piece.weight)]


def small_parts(unit: PlacedUnit) -> Iterator[Tensor]:
    """Yield what hangs on the quantized weights of a unit and stays on the device, such as tables and scalars."""
    for module in unit.module.modules():
        for p in module._parameters.values():
            scheme = owner(p)
            if p is not None and scheme is not None:
                yield from (x for part, x in parts(p, module).items() if not x.ndim or part in scheme.tables)


def _shared(model: nn.Module) -> set[int]:
    """Return the ids of tensors that several modules hold."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None:
                owners[id(p)] = owners.get(id(p), 0) + 1
    return {key for key, count in owners.items() if count > 1}


def _pieces(unit: PlacedUnit, shared: set[int]) -> Iterator[Piece]:
    for path, module in unit.module.named_modules(prefix=unit.name):
        for member, p in module._parameters.items():
            if p is not None and id(p) not in shared and p.ndim > 1:
                yield from _parts(f"{path}.{member}", p, module)


def _parts(name: str, p: Tensor, module: nn.Module) -> Iterator[Piece]:
    """Yield what a weight consists of; tensors of its module that share its memory go with it."""
    scheme = owner(p)
    tables = frozenset() if scheme is None else scheme.tables
    beside = [] if scheme is None or isinstance(p, PackedWeight) else scheme.beside(module)
    for part, x in parts(p, module).items():
        if x.ndim and part not in tables:
            also = tuple(other for other in beside if other is not x and _same_place(other, x))
            yield Piece(name if x is p else f"{name}.{part}", name, x, also=also)


def _same_place(one: Tensor, other: Tensor) -> bool:
    return same_storage(one, other) and one.storage_offset() == other.storage_offset()
