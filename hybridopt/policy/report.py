"""The bytes of a plan as a table: one row for each tag and role."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from ..core.sizes import human
from ..model.placement.at_rest import at_rest, where_it_rests
from ..model.quantization.scales import scales
from ..model.quantization.sizes import weight_bytes
from ..model.roles import clean
from ..model.unquantized import Unquantized, unquantized
from .lr_factors import lr_factors
from .plan import Entry, Plan

__all__ = ["Report", "Row"]


@dataclass(frozen=True)
class Row:
    """Parameters of one tag and role; all sizes in bytes, state in its largest window.

    A table that all quantized layers share counts once in every row, and once in the total. `rest_bytes` are those of
    the weights that rest elsewhere, at `rests`.
    """

    tag: str
    role: str
    tensors: int
    parameters: int
    weight_bytes: int
    grad_bytes: int
    state_bytes: int
    rest_bytes: int = 0
    rests: str = "device"


@dataclass(frozen=True)
class Report:
    """Rows and their totals; prints as a table.

    Args:
        rows: one for each tag and role.
        totals: of all rows.
        step: bytes at the largest moment of a training step, by what they are for; None: not known.
        unquantized: what a quantized base keeps in floats; None: it is not quantized.
        rests: where weights of layers rest, "host" or "disk"; None: the model is not placed.
        moved: bytes that a step reads, copies to the device, and writes; None: not known.
        lr_factors: what the learning rate is multiplied by, by role, where any is not trained at the rate itself.
    """

    rows: tuple[Row, ...]
    totals: Row
    step: Mapping[str, int] | None = None  # bytes at the largest moment of a training step, by what they are for
    unquantized: Unquantized | None = None
    rests: str | None = None
    moved: Mapping[str, int] | None = None
    lr_factors: Mapping[str, tuple[float, ...]] | None = None

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
        away = at_rest(model)
        rows = tuple(_row(*kind, plan, entries, weights, away) for kind, entries in sorted(kinds.items()))
        total = _row("total", "", plan, plan.entries, weights, away)
        factors = lr_factors(plan.entries) or None
        return Report(rows, total, unquantized=unquantized(model), rests=where_it_rests(model), lr_factors=factors)

    def __str__(self) -> str:
        """Return the table as text."""
        kept = "weights" if self.unquantized is None else "weights + quantization"  # as plans call the constants
        head = ("tag", "role", "tensors", "parameters", kept, "gradients", "state", *self._resting())
        body = [
            (r.tag, r.role, f"{r.tensors}", f"{r.parameters:,}", *map(human, _bytes(r)), *self._resting(r))
            for r in self._all()
        ]
        width = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(_fit(c, w, i) for i, (c, w) in enumerate(zip(r, width, strict=True))) for r in (head, *body)
        ]
        rule = "-" * len(lines[0])
        more = (*self._factors(), *self._left(), *self._moved(), *self._step())
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *more])

    __repr__ = __str__

    def as_dict(self) -> dict[str, Any]:
        """Return rows, totals, and the bytes of a step if they are known, as plain data."""
        step = {} if self.step is None else {"step": dict(self.step)}
        left = {} if self.unquantized is None else {"unquantized": self.unquantized.as_dict()}
        rows = {"rows": [self._as_dict(r) for r in self.rows], "totals": self._as_dict(self.totals)}
        rests = {} if self.rests is None else {"rests": self.rests, "moved_per_step": dict(self.moved or {})}
        factors = {} if self.lr_factors is None else {"lr_factors": {k: list(v) for k, v in self.lr_factors.items()}}
        return rows | factors | left | rests | step

    def _as_dict(self, row: Row) -> dict[str, Any]:
        return {k: v for k, v in asdict(row).items() if self.rests is not None or not k.startswith("rest")}

    def _resting(self, row: Row | None = None) -> tuple[str, ...]:
        """Return the cells that only placed models have, or their titles."""
        if self.rests is None:
            return ()
        if row is None:
            return "rests on", "bytes there"
        return "" if row is self.totals else row.rests, human(row.rest_bytes)

    def _moved(self) -> Iterator[str]:
        if self.moved is not None:
            told = ", ".join(f"{human(size)} {what}" for what, size in self.moved.items() if size)
            yield f"a step moves: {told or 'nothing'}"

    def _factors(self) -> Iterator[str]:
        if self.lr_factors is not None:
            told = (f"{role} {' and '.join(f'{x:g}' for x in each)}" for role, each in self.lr_factors.items())
            yield f"the learning rate is multiplied: {', '.join(told)}"

    def _left(self) -> Iterator[str]:
        if self.unquantized is not None and self.unquantized.much:
            yield str(self.unquantized)

    def _step(self) -> Iterator[str]:
        if self.step is not None:
            parts = ", ".join(f"{name} {human(size)}" for name, size in self.step.items() if size)
            yield f"peak of a step: {human(sum(self.step.values()))} ({parts})"

    def _all(self) -> tuple[Row, ...]:
        return (*self.rows, self.totals)


def _row(
    tag: str,
    role: str,
    plan: Plan,
    entries: Sequence[Entry],
    weights: Callable[[Sequence[Entry]], int],
    away: Mapping[str, tuple[str, int]],
) -> Row:
    trained = [e.param.name for e in entries if e.treatment is not None]
    resting = [away[e.param.name] for e in entries if e.param.name in away]
    grads = (e for e in entries if e.treatment is not None and e.treatment.source.backward)
    return Row(
        tag,
        role,
        len(entries),
        sum(e.numel for e in entries),
        weights(entries),
        sum(e.numel * e.param.dtype.itemsize for e in grads),
        plan.largest(trained),
        sum(size for _, size in resting),
        next((where for where, _ in resting), "device"),
    )


def _bytes(row: Row) -> tuple[int, int, int]:
    return row.weight_bytes, row.grad_bytes, row.state_bytes


def _fit(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
