"""The places of weights that rest elsewhere in their model: whether they are still there, and nowhere else."""

from collections.abc import Iterable

from torch import Tensor, nn

from ....core.contracts import PlacedUnit
from ....core.errors import HybridOptError
from ...fsdp.sharded_tensors import is_sharded

__all__ = ["WeightPlaces", "refuse_replaced"]


class WeightPlaces:
    """Where the weights of a placed model are.

    Args:
        units: of the model.
        aside: what stays on the host, with the one module that uses it.
    """

    def __init__(self, units: Iterable[PlacedUnit], aside: Iterable[tuple[Tensor, nn.Module]]):
        self._units = list(units)
        self._held = [
            (module, name, p)
            for unit in self._units
            for own in [{id(piece.tensor) for piece in unit.pieces}]
            for module in unit.module.modules()
            for name, p in module._parameters.items()
            if id(p) in own
        ]
        self._aside = {id(x): module for x, module in aside}

    def check_there(self) -> None:
        """Raise HybridOptError if none of the weights is there any more, and others have their own in all places.

        Plain values are there for the time of a call: `torch.func.functional_call` puts them there.
        """
        if self._held and not any(module._parameters.get(name) is p for module, name, p in self._held):
            module, name, _ = self._held[0]
            if _others(module._parameters.get(name)):
                refuse_replaced(self._units[0].pieces[0].weight)

    def check_alone(self, model: nn.Module) -> None:
        """Raise HybridOptError if a weight was put into a module that is not fetched with it.

        Args:
            model: the whole one.
        """
        units = {id(piece.tensor): unit for unit in self._units for piece in unit.pieces}
        inside = {unit: set(unit.module.modules()) for unit in self._units}
        for path, module in model.named_modules():
            for name, p in module._parameters.items():
                unit, table = units.get(id(p)), self._aside.get(id(p), module)
                if table is not module or (unit is not None and module not in inside[unit]):
                    where = "the host" if unit is None else f"the place of {unit.name!r}, and is fetched with it"
                    raise HybridOptError(
                        f"{path}.{name} is a weight that rests on {where}, put into another module since: what is "
                        "used in several places stays on the device. Tie weights before the model is placed, or put "
                        "a copy there (nn.Parameter(weight.detach().clone()))",
                        "placement",
                    )


def _others(p: Tensor | None) -> bool:
    """Return whether a tensor is one of those that sharding and offload leave in the place of a weight."""
    return p is None or p.is_meta or is_sharded(p) or "_fsdp_flattened" in vars(p)


def refuse_replaced(name: str) -> None:
    """Raise HybridOptError for a weight in whose place others have put their own tensors.

    Args:
        name: of the weight.
    """
    raise HybridOptError(
        f"{name!r} was replaced since the model was placed, as fully_shard, FSDP, DeepSpeed, quantization and "
        "accelerate's offload (cpu_offload, disk_offload, dispatch_model) do, and placement is for whole weights on "
        "one device; leave one of both out, and load the model anew",
        "placement",
    )
