"""Names of the parameters that an optimizer is given: their own, or places in the order in which they come."""

from collections.abc import Iterable

from torch import Tensor

from ...model.roles import clean, uncontained
from .declared_roles import members

__all__ = ["GivenNames"]


class GivenNames:
    """How parameters are given: with names or not, and with the names of DistributedDataParallel or not."""

    def __init__(self) -> None:
        self._contained = False
        self._named: bool | None = None  # not known yet
        self._count = 0

    @property
    def unnamed(self) -> bool:
        """Return whether groups were given, and without names."""
        return self._named is False

    def begin(self, given: list) -> None:
        """Look whether names are those of a model in a container; given: what an optimizer is made of."""
        pairs = [pair for one in given for pair in (members(one) if isinstance(one, dict) else (one,))]
        names = [pair[0] for pair in pairs if isinstance(pair, tuple) and pair and isinstance(pair[0], str)]
        self._contained = uncontained(names) != names

    def in_model(self, name: str) -> str:
        """Return the name in the model of a parameter that was given under another, as containers have others."""
        return uncontained([clean(name)])[0] if self._contained else clean(name)

    def name(self, group: dict) -> dict:
        """Return a group with names for tensors without, by their places, so that everything else can go by name.

        Raises:
            ValueError: this group has names, and those before had none.
        """
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        if not params:
            return {**group, "params": [], "param_names": []}
        unnamed = all(isinstance(p, Tensor) for p in params)
        if self._named and unnamed:
            return {**group, "params": params}  # torch refuses the mixture
        if self._named is False and not unnamed:
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group with names to the "
                "optimizer without names"
            )
        self._named = not unnamed
        return {**group, "params": self._numbered(params) if unnamed else params}

    def _numbered(self, params: Iterable[Tensor]) -> list[tuple[str, Tensor]]:
        found = [(f"param_{place}", p) for place, p in enumerate(params, self._count)]
        self._count += len(found)
        return found
