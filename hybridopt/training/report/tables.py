"""Tables of a run: what it was, what it took in memory and time, what it was made with."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...core.sizes import human
from ..watching.fields import thousands
from .markup import Html, element
from .reading import Facts

__all__ = ["memory_table", "settings", "tiles", "time_table"]

KINDS = (
    "weights",
    "quantization",
    "near",
    "gradients",
    "state",
    "activations",
    "temporaries",
    "collectives",
    "overhead",
)


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most: what each is, its value, and a word beside it."""
    found = []
    losses, held_out = _known(facts, "loss"), _known(facts, "eval_loss")
    if losses:
        found.append(("Loss", f"{losses[-1]:.4g}", f"from {losses[0]:.4g}"))
    if held_out:
        found.append(("Best evaluation", f"{min(held_out):.4g}", f"last {held_out[-1]:.4g}"))
    found.append(("Steps", f"{facts.done:,}", f"of {facts.steps:,}" if facts.steps else ""))
    tokens = _known(facts, "tokens")
    if tokens:
        speed = _speed(facts)
        found.append(("Tokens", _count(tokens[-1]), f"{speed:,.0f} a second" if speed else ""))
    seconds = _known(facts, "seconds")
    if seconds:
        found.append(("Time", _time(seconds[-1]), ""))
    peak = facts.size("measured", "peak_bytes") or max(_known(facts, "peak_bytes"), default=0)
    if peak:
        planned = facts.size("planned", "peak_bytes")
        beside = f"planned {human(planned)}" if planned and facts.device == "cuda" else ""
        found.append(("Peak memory" if facts.device == "cuda" else "Peak of the process", human(int(peak)), beside))
    return found


def memory_table(facts: Facts) -> Html | None:
    """Return planned against measured bytes by kind; None where neither is known."""
    pairs = {kind: [facts.size(part, f"{kind}_bytes") for part in ("planned", "measured")] for kind in KINDS}
    pairs = {kind: pair for kind, pair in pairs.items() if any(pair)}
    if not pairs and not facts.size("planned", "peak_bytes"):
        return None
    ends = [facts.size(part, "peak_bytes") for part in ("planned", "measured")]
    comparable = facts.device == "cuda"
    body = [_compared(kind, pair[0], pair[1]) for kind, pair in pairs.items()]
    body.append(_compared("peak", ends[0], ends[1] if comparable else None, "sum"))
    if not comparable and ends[1]:
        body.append(_compared("resident set of the process", None, ends[1]))
    about = (
        "The peak is the largest that torch had allocated."
        if comparable
        else (
            "The process's resident set has Python and all libraries in it, so it is no measure of the planned peak."
        )
    )
    return _table("Memory, planned and measured", ("", "planned", "measured", "of plan"), body, about)


def time_table(facts: Facts) -> Html | None:
    """Return where the time went; None where it is not known."""
    measured = facts.part("measured")
    total, training = measured.get("seconds"), measured.get("training_seconds")
    seconds = _known(facts, "seconds")
    total = total if isinstance(total, int | float) else (seconds[-1] if seconds else None)
    if total is None:
        return None
    rows = [("whole run", _time(total))]
    if isinstance(training, int | float):
        rows += [("training", _time(training)), ("evaluations and checkpoints", _time(max(0.0, total - training)))]
    if facts.done:
        spent = training if isinstance(training, int | float) else total
        rows.append(("a step", f"{spent / facts.done:.3g} s"))
    if speed := _speed(facts):
        rows.append(("tokens a second, without padding", f"{speed:,.0f}"))
    return _table("Time", None, [_row(name, text) for name, text in rows])


def settings(title: str, data: Mapping[str, Any]) -> Html | None:
    """Return nested settings as a table of dotted names; None without any."""
    rows = [_row(name, text) for name, text in _flat(data, "")]
    return _table(title, None, rows) if rows else None


def _flat(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(x, Mapping) for x in value):
            yield from _flat({str(i): each for i, each in enumerate(value, 1)}, f"{name}.")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value)) or "none"
    if value is None or value == {}:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _compared(kind: str, planned: int | None, measured: int | None, look: str | None = None) -> Html:
    ratio = f"{measured / planned:.1%}" if planned and measured else "–"
    cells = [human(size) if size is not None else "–" for size in (planned, measured)]
    return element("tr", element("th", kind, scope="row"), *(element("td", x) for x in (*cells, ratio)), class_=look)


def _row(name: str, text: str) -> Html:
    return element("tr", element("th", name, scope="row"), element("td", text))


def _table(title: str, head: Sequence[str] | None, rows: Sequence[Html], about: str = "") -> Html:
    top = [element("thead", element("tr", *(element("th", x, scope="col") for x in head)))] if head else []
    table = element("table", *top, element("tbody", *rows), class_="sizes" if head else None)
    note = [element("p", about)] if about else []
    return element("section", element("h3", title), *note, element("div", table, class_="scroll"), class_="card")


def _known(facts: Facts, key: str) -> list[float]:
    found = (record.get(key) for record in facts.records)
    return [x for x in found if isinstance(x, int | float) and not isinstance(x, bool)]


def _speed(facts: Facts) -> float | None:
    """Return the tokens a second of all training, or the middle of what records say."""
    measured = facts.part("measured")
    tokens, seconds = measured.get("tokens"), measured.get("training_seconds")
    speeds = sorted(_known(facts, "tokens_per_second"))
    if isinstance(tokens, int) and isinstance(seconds, int | float) and seconds > 0 and len(speeds) == 0:
        return tokens / seconds
    return speeds[len(speeds) // 2] if speeds else None


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else thousands(value)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
