"""Where weights rest between their uses, as users say it."""

from dataclasses import dataclass, replace
from os import PathLike

from ...core.errors import HybridOptError, check_choice, check_count
from ...core.files.paths import path_of
from ...core.sizes import parse_size

__all__ = ["BASES", "Placement", "read_placement"]

BASES = ("device", "host", "disk", "auto")


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model's layers rest, and how many layers are on the device at a time.

    Args:
        base: "device": where they are used; "host": in the memory of the host; "disk": in their files; "auto": as
            near as `memory` and `host_memory` of `load` allow.
        slots: layers that are on the device at a time, those that are on their way among them.
        resident: layers that stay on the device, the first ones; they take none of the slots.
        ahead: layers that are fetched before they are asked for.
        cache: a folder for weights that no file holds in the form in which they are used, such as quantized ones:
            with base="disk" they are written there once, and found there again. None: there is none.
        keep_cached: may the system keep weights on disk in its own cache after they were dropped? None: if all of them
            fit into the memory that the host has left.
        write_every: steps after which full weights that are trained by losses alone are written where they rest;
            until then the updates since are made again whenever a layer is fetched. With base="disk" they are written
            to a file in `cache` that is gone with the process. None: only when they are saved or otherwise asked for,
            and once 256 steps wait, with a warning: a fetch makes the updates of all of them.
        paired: do all the shifted evaluations of a step of such training share one pass over the layers? They are
            alive at the same time, each with what the model keeps between two layers. False: one after the other.
        allow_writes: bytes a day that training may write to disk, such as "2TB"; None: 329 GB, which a usual drive of
            1 TB endures every day for five years.

    Raises:
        HybridOptError: a value is not allowed, or values exclude one another.
    """

    base: str = "host"
    slots: int = 3
    resident: int = 0
    ahead: int = 1
    cache: str | PathLike | None = None
    keep_cached: bool | None = None
    write_every: int | None = 8
    paired: bool = True
    allow_writes: str | None = None

    def __post_init__(self) -> None:
        check_choice("placement", "base", self.base, BASES)
        check_count("placement", "slots", self.slots, 2)
        check_count("placement", "resident", self.resident, 0)
        check_count("placement", "ahead", self.ahead, 0)
        if self.ahead >= self.slots:
            raise HybridOptError(
                f"ahead={self.ahead} is not allowed with slots={self.slots}: one layer is in use while others are "
                f"fetched; give slots={self.ahead + 1} or ahead={self.slots - 1}",
                "placement",
            )
        if self.cache is not None:
            path_of(self.cache, "cache")
        if not isinstance(self.paired, bool):
            raise HybridOptError(f"paired={self.paired!r:.100} is not allowed; give True or False", "placement")
        if not (self.keep_cached is None or isinstance(self.keep_cached, bool)):
            raise HybridOptError(
                f"keep_cached={self.keep_cached!r:.100} is not allowed; give True, False or None", "placement"
            )
        if self.write_every is not None:
            check_count("placement", "write_every", self.write_every, 1)
        if self.allow_writes is not None:
            parse_size(self.allow_writes, "allow_writes")

    def but(self, **changes: object) -> "Placement":
        """Return a copy with some values changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # dataclasses check names, __post_init__ values


def read_placement(value: "str | Placement | None", owner: str) -> Placement | None:
    """Return the Placement that a user has given, by name or as it is; None for weights that stay on the device.

    Args:
        value: "device", "host", "disk", "auto", a Placement, or None.
        owner: who was given it, for errors.
    """
    if isinstance(value, str):
        check_choice(owner, "placement", value, BASES)
        value = Placement(value)
    if value is not None and not isinstance(value, Placement):
        raise HybridOptError(
            f"placement={value!r:.100} is not known; give one of {', '.join(BASES)}, or a hybridopt.Placement", owner
        )
    return None if value is None or value.base == "device" else value
