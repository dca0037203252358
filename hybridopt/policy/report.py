"""The bytes of a plan as a table: one row for each tag and role."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from ..core.sizes import human
from ..model.quantization.scales import scales
from ..model.quantization.sizes import weight_bytes
from ..model.roles import clean
from ..model.unquantized import Unquantized, unquantized
from .plan import Entry, Plan

__all__ = ["Report", "Row"]


@dataclass(frozen=True)
class Row:
    """Parameters of one tag and role; all sizes in bytes, state in its largest window.

    A table that all quantized layers share counts once in every row, and once in the total.
    """

    tag: str
    role: str
    tensors: int
    parameters: int
    weight_bytes: int
    grad_bytes: int
    state_bytes: int


@dataclass(frozen=True)
class Report:
    """Rows and their totals; prints as a table.

    Args:
        rows: one for each tag and role.
        totals: of all rows.
        step: bytes at the largest moment of a training step, by what they are for; None: not known.
        unquantized: what a quantized base keeps in floats; None: it is not quantized.
    """

    rows: tuple[Row, ...]
    totals: Row
    step: Mapping[str, int] | None = None  # bytes at the largest moment of a training step, by what they are for
    unquantized: Unquantized | None = None

    @staticmethod
    def of(plan: Plan, model: nn.Module) -> "Report":
        """Return the report of a plan on its live model; quantized weights count with their constants."""
        tensors: dict[str, Tensor] = {clean(n): p for n, p in model.named_parameters()}
        tensors |= {clean(n): x for n, _, x in scales(model)}

        def weights(entries: Iterable[Entry]) -> int:
            size: int = weight_bytes(*(tensors[e.param.name] for e in entries))
            return size

        kinds: dict[tuple[str, str], list[Entry]] = {}
        for entry in plan.entries:
            kinds.setdefault((entry.tag, entry.param.role), []).append(entry)
        rows = tuple(_row(*kind, plan, entries, weights) for kind, entries in sorted(kinds.items()))
        return Report(rows, _row("total", "", plan, plan.entries, weights), unquantized=unquantized(model))

    def __str__(self) -> str:
        """Return the table as text."""
        kept = "weights" if self.unquantized is None else "weights + quantization"  # as plans call the constants
        head = ("tag", "role", "tensors", "parameters", kept, "gradients", "state")
        body = [(r.tag, r.role, f"{r.tensors}", f"{r.parameters:,}", *map(human, _bytes(r))) for r in self._all()]
        width = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(_fit(c, w, i) for i, (c, w) in enumerate(zip(r, width, strict=True))) for r in (head, *body)
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *self._left(), *self._step()])

    __repr__ = __str__

    def as_dict(self) -> dict[str, Any]:
        """Return rows, totals, and the bytes of a step if they are known, as plain data."""
        step = {} if self.step is None else {"step": dict(self.step)}
        left = {} if self.unquantized is None else {"unquantized": self.unquantized.as_dict()}
        return {"rows": [asdict(r) for r in self.rows], "totals": asdict(self.totals)} | left | step

    def _left(self) -> Iterator[str]:
        if self.unquantized is not None and self.unquantized.much:
            yield str(self.unquantized)

    def _step(self) -> Iterator[str]:
        if self.step is not None:
            parts = ", ".join(f"{name} {human(size)}" for name, size in self.step.items() if size)
            yield f"peak of a step: {human(sum(self.step.values()))} ({parts})"

    def _all(self) -> tuple[Row, ...]:
        return (*self.rows, self.totals)


def _row(tag: str, role: str, plan: Plan, entries: Sequence[Entry], weights: Callable[[Sequence[Entry]], int]) -> Row:
    trained = [e.param.name for e in entries if e.treatment is not None]
    grads = (e for e in entries if e.treatment is not None and e.treatment.source.backward)
    return Row(
        tag,
        role,
        len(entries),
        sum(e.numel for e in entries),
        weights(entries),
        sum(e.numel * e.param.dtype.itemsize for e in grads),
        plan.largest(trained),
    )


def _bytes(row: Row) -> tuple[int, int, int]:
    return row.weight_bytes, row.grad_bytes, row.state_bytes


def _fit(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
