"""The plan of a whole model that an optimizer is given, as `wrap` makes it; an optimizer by itself has none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...model.roles import Param
from ...policy.plan import Entry

__all__ = ["GivenPlan"]


class GivenPlan:
    """What a plan says of parameters, by name.

    Args:
        entries: of the plan; none where there is no plan.
    """

    def __init__(self, entries: Mapping[str, Entry]):
        self._entries = dict(entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def freezes(self, name: str) -> bool:
        """Return whether the plan freezes a parameter that its owner has not frozen."""
        entry = self._entries.get(name)
        return entry is not None and entry.treatment is None and entry.param.trainable

    def leaves_out(self, name: str) -> bool:
        """Return whether a parameter was left out of the plan, as its owner had set requires_grad to False."""
        return name in self._entries and not self._entries[name].param.trainable

    def roles_of(self, names: Iterable[str]) -> dict[str, str]:
        """Return the roles of those parameters that were left out of the plan, by name."""
        return {name: self._entries[name].param.role for name in names if self.leaves_out(name)}

    def unfrozen(self, live: Mapping[str, Param]) -> list[Param]:
        """Return what the plan knows of parameters that were frozen when it was made, as trainable ones.

        live: parameters as they are now; those that the plan leaves in, or knows as something else, are not returned.
        """
        found = [replace(self._entries[n].param, trainable=True) for n in live if self.leaves_out(n)]
        return [param for param in found if _alike(param, live[param.name])]

    def of(self, live: Sequence[Param]) -> list[Entry] | None:
        """Return the entries of parameters as they are now; None unless the plan knows all of them so."""
        found = [self._entries[p.name] for p in live if p.name in self._entries]
        same = len(found) == len(live) and all(map(_alike, (entry.param for entry in found), live))
        return found if same else None


def _alike(planned: Param, live: Param) -> bool:
    """Is the live parameter what was planned, but for what only the module tree tells?"""
    return (planned.role, planned.shape, planned.dtype, planned.codes) == (
        live.role,
        live.shape,
        live.dtype,
        live.codes,
    )
