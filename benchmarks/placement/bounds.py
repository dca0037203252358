"""What was measured against what must hold."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from hybridopt.core.sizes import human

from ..shared.llama import Llama
from .folder import layer_bytes, other_bytes

Found = dict[str, dict]  # what the arms have found, by row


@dataclass(frozen=True)
class Bound:
    """A line of the table: what is measured, and how large it may be. `show` writes either."""

    text: str
    measured: float
    bound: float
    show: Callable[[float], str]

    @property
    def holds(self) -> bool:
        """Return whether it is kept."""
        return self.measured <= self.bound


def size(x: float) -> str:
    """Write bytes."""
    return human(int(x))


def times(x: float) -> str:
    """Write a ratio."""
    return f"{x:.3f} x"


def percent(x: float) -> str:
    """Write a share."""
    return f"{100 * x:.2f} %"


def milliseconds(x: float) -> str:
    """Write seconds as milliseconds."""
    return f"{1000 * x:.3f} ms"


def count(x: float) -> str:
    """Write a number."""
    return f"{x:g}"


def bounds(found: Found, shape: Llama, slots: int) -> list[Bound]:
    """Return the lines of what was measured so far.

    Args:
        found: by the name of the row.
        shape: of the model.
        slots: layers that were near.
    """
    lines: list[Bound] = []
    layer, other = layer_bytes(shape), other_bytes(shape)
    weights = shape.layers * layer + other
    if {"peak resident", "peak placed"} <= found.keys():
        beside = found["peak resident"]["step_bytes"] - weights
        most = (slots + 0.5) * layer + other + beside
        text = f"peak memory above libraries; bound: {slots}.5 layers, the other weights, what resident steps take"
        lines.append(Bound(text, found["peak placed"]["peak_bytes"], most, size))
    for name, limit in (("cold", 1.25), ("warm", 1.10)):
        if name in found:
            pairs = found[name]["seconds"]
            text = f"seconds of a step over those of resident training, {name} cache"
            lines.append(Bound(text, median(there / here for here, there in pairs), limit, times))
            lines.append(
                Bound(f"losses that differ from resident ones, {name}", not found[name]["same_losses"], 0, count)
            )
    if "cold" in found:
        waited, fetching = (found["cold"][key] for key in ("waited", "fetching"))
        lines.append(Bound("seconds of waiting over those of fetching, cold cache", waited / fetching, 0.2, percent))
        steps = len(found["cold"]["seconds"])
        fetched = 2 * (shape.layers - slots) * layer
        text = "bytes read a step; bound: there and back but for the layers that are there at each turn"
        lines.append(Bound(text, found["cold"]["read"] / steps, fetched * 1.002, size))
    if "visits" in found:
        row = found["visits"]
        lines.append(Bound("an empty visit of a layer", row["spent"] / row["visits"], 1e-3, milliseconds))
        lines.append(Bound("empty visits, share of a step", row["spent"] / sum(row["seconds"]), 0.02, percent))
    if "reads" in found:
        row = found["reads"]["read_bytes"]
        text = "bytes that loading and wrapping read from the disk, over those of the weights"
        lines.append(Bound(text, (row["load"] + row["wrap"]) / weights, 1.02, times))
        text = "bytes that saving reads, over those of the weights"
        lines.append(Bound(text, row["save"] / weights, 0.02, times))
    limits = {"limit placed": "LoRA", "limit mezo": "MeZO of all weights"}
    for name, method in limits.items():
        if name in found:
            row = found[name]
            text = f"{method}, memory limited to {size(row['room'])}: not trained"
            lines.append(Bound(f"{text} ({row['error']})" if row["ended"] else text, bool(row["ended"]), 0, count))
    if "limit resident" in found:
        row = found["limit resident"]
        lines.append(
            Bound(f"resident, memory limited to {size(row['room'])}: loaded", row["ended"] != "load", 0, count)
        )
    if "limit mezo" in found and not found["limit mezo"]["ended"]:
        row = found["limit mezo"]
        text = "MeZO: bytes read in the last step over those of the layers"
        read = row["last_read"] / (shape.layers * layer)
        lines.append(Bound(text, read, 1 + 1 / shape.layers, times))
    return lines
