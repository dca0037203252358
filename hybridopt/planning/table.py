"""Show estimates in a terminal: as a table, and as stacked bars against the GPU's memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ..core.budget import Budget
from ..core.card_speeds import Flops
from ..core.host import Host
from ..core.sizes import human
from ..core.terminal_encoding import Writable
from .estimate import Estimate
from .placement.descriptions import placed_rows
from .text import HEAD, NUMBERS, rows, title, worked
from .ways.choice import Choice
from .ways.ways import Way

__all__ = ["Bar", "Bars", "COLORS", "choices_table", "estimate_table", "legend", "watched"]

COLORS = {
    "weights": "blue",
    "quantization": "cyan",
    "near": "bright_blue",
    "collectives": "bright_magenta",
    "gradients": "red",
    "state": "magenta",
    "activations": "green",
    "temporaries": "yellow",
    "overhead": "bright_black",
}
WIDTH, NARROW = 60, 20  # characters of a whole bar, and of one where there is little room
ROOMY = 72  # characters of a line that has room for passes
HINT = "  # MODEL: a folder, or a name on the hub"
PASSES = (
    "F, B: forward and backward passes of a step; x: its multiplications against AdamW on all weights without "
    "checkpointing"
)


def estimate_table(
    estimate: Estimate, room: Budget | None = None, host: Host | None = None, flops: Flops | None = None
) -> RenderableType:
    """Tabulate every part with its bytes and share, the peak, and what rests elsewhere.

    Args:
        estimate: of one way to train.
        room: of the device; then also whether it fits.
        host: whose memory is told, too, and how fast its bus and disk carry.
        flops: that the device reaches; None: not known.
    """
    memory = None if room is None else room.total
    table = Table(title=escape(title(estimate)))
    for name in HEAD:
        number = name in NUMBERS
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    *parts, peak = rows(estimate)
    for name, *cells in parts:
        table.add_row(f"[{COLORS[name]}]■[/] {name}", *cells)
    table.add_section()
    table.add_row(*peak)
    lines: list[RenderableType] = [table, Bar(estimate, max(estimate.peak_bytes, memory or 0), memory)]
    lines.append(Text(worked(estimate)))
    lines += _placed(estimate, host, flops)
    if estimate.unquantized is not None and estimate.unquantized.much:
        lines.append(Text(str(estimate.unquantized)))
    return Writable(Group(*lines, *([_verdict(estimate, room, host)] if room else [])))


def choices_table(
    choices: Sequence[Choice], room: Budget, host: Host | None = None, flops: Flops | None = None
) -> RenderableType:
    """Show ranked ways with their bars, what would help those that do not fit, and the best last, as a program.

    Args:
        choices: in their order.
        room: of the device.
        host: beside it, whose bus and disk carry placed layers.
        flops: that the device reaches; None: not known.
    """
    fitting = [(i, c) for i, c in enumerate(choices, 1) if c.fits]
    tight = [(i, c) for i, c in enumerate(choices, 1) if c.tight]
    others = [c for c in choices if not c.fits and not c.tight]
    parts: list[RenderableType] = [
        legend(choices[0].request.gpus > 1),
        Text(PASSES, "bright_black"),
        Text(str(room), "bold"),
    ]
    if fitting:
        parts.append(Bars([(_label(i, c), c.estimate) for i, c in fitting], room.total))
    for number, choice in fitting[1:]:
        parts += [Text(f"\n{number}. {choice.way.title} (given up: {choice.way.why})", "bold"), _code(choice.code)]
    if tight:
        parts += [Text(f"\nWhat fits only into the {human(room.kept)} that are to be kept free:", "bold")]
        parts += [Bars([(_label(i, c), c.estimate) for i, c in tight], room.total)]
    if others:
        parts += [Text("\nWhat does not fit:", "bold"), Bars([(c.way.title, c.estimate) for c in others], room.total)]
        parts += [Text(f"{c.way.title}: {c.change or 'no single change makes it fit'}") for c in others]
    placed = _placed(fitting[0][1].estimate, host, flops) if fitting else []
    return Writable(Group(*parts, *placed, *_best(fitting, room)))


def _placed(estimate: Estimate, host: Host | None, flops: Flops | None) -> list[RenderableType]:
    """Return a table of what rests elsewhere and of what a step moves; nothing where nothing is placed."""
    found = placed_rows(estimate, host, flops)
    table = Table(title="layers that rest elsewhere")
    for name in ("what", "amount", "that is"):
        table.add_column(name, justify="right" if name == "amount" else "left", no_wrap=name == "amount")
    for row in found:
        table.add_row(*map(escape, row))
    return [table] if found else []


@dataclass(frozen=True)
class Bars:
    """A stacked bar for each of several estimates, all on one scale, with bytes, and passes where there is room.

    Args:
        estimates: with their labels.
        memory: of the GPU, in bytes; None: not known.
    """

    estimates: Sequence[tuple[str, Estimate]]
    memory: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        table = Table.grid(padding=(0, 1))
        table.add_column()
        table.add_column()
        roomy = options.max_width >= ROOMY
        for _ in range(3 if roomy else 1):
            table.add_column(no_wrap=True, justify="right")
        scale = max(self.memory or 0, *(e.peak_bytes for _, e in self.estimates))
        for label, e in self.estimates:
            worked = (str(e.work), f"{e.work.relative:.2f}x") if roomy else ()
            table.add_row(escape(label), Bar(e, scale, self.memory), human(e.peak_bytes), *worked)
        yield table


@dataclass(frozen=True)
class Bar:
    """A stacked bar of an estimate's parts, as wide as there is room.

    Args:
        estimate: whose parts are drawn side by side.
        scale: bytes that the whole width stands for.
        memory: bytes at which a line marks the end of the GPU's memory; None: no line.
    """

    estimate: Estimate
    scale: int
    memory: int | None = None

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(NARROW + 1, WIDTH + 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = min(WIDTH, options.max_width - 1)  # the line takes one
        text = self._parts(width)
        if self.memory is None:
            yield text
            return
        end = round(width * self.memory / self.scale)
        text.append("·" * (end - len(text)), "bright_black")
        yield Text.assemble(text[:end], ("|", "bold"), text[end:], no_wrap=True)

    def _parts(self, width: int) -> Text:
        text, done = Text(no_wrap=True), 0
        for name, size in self.estimate.parts.items():
            done += size
            text.append("█" * (round(width * done / self.scale) - len(text)), COLORS[name])
        return text


def legend(several: bool = False) -> Text:
    """Say which color stands for which part; `several`: are there several GPUs, between which something moves?"""
    names = (name for name in COLORS if several or name != "collectives")
    return Text("  ").join(Text(f"■ {name}", COLORS[name]) for name in names)


def _best(fitting: Sequence[tuple[int, Choice]], room: Budget) -> list[RenderableType]:
    """Return the first that fits as a whole program; a line that says so where nothing does."""
    if not fitting:
        return [Text("\nNothing fits beside what is to be kept free; --margin 0 fills the memory.", "bold red")]
    best = fitting[0][1]
    left = human(room.usable - best.estimate.peak_bytes)
    return [
        Text(f"\n1. {best.way.title} (given up: {best.way.why}), the best that fits; {left} to spare:", "bold"),
        _code(f"{best.command(room)}{HINT if best.place is None and ' MODEL ' in best.command(room) else ''}\n"),
        _code(best.script),
    ]


def _code(lines: str) -> Text:
    """Return lines unbroken, as they are to be pasted."""
    return Text(lines, no_wrap=True, overflow="ignore")


def _label(number: int, choice: Choice) -> str:
    r = choice.request
    extra = ["checkpointing"] * r.checkpointing + ["loss in chunks"] * bool(r.chunk) + [r.release] * r.frees_gradients
    return f"{number}. {choice.way.title}" + (f" ({', '.join(extra)})" if extra else "")


def _verdict(estimate: Estimate, room: Budget, host: Host | None) -> str:
    if lacking := estimate.missing_on_host(host):
        return f"[red]does not fit[/] into the host's memory: {human(lacking)} are missing"
    missing, where = estimate.missing(room.usable), escape(str(room))
    if estimate.tight(room):
        return f"[red]fits only into the margin[/] of {where}: it takes {human(missing)} of it"
    if missing:
        return f"[red]does not fit[/] into {where}: {human(missing)} are missing"
    return f"[green]fits[/] into {where}: {human(room.usable - estimate.peak_bytes)} to spare"


def watched(ways: Sequence[Way], lines: bool = False) -> Iterable[Way]:
    """Hand on the ways one by one, with a progress bar on stderr.

    Args:
        ways: to be estimated.
        lines: whether to write a line for each where stderr is no terminal; otherwise nothing is written there.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        return track(ways, "Looking for what fits", console=console, transient=True)
    return _in_lines(ways, console) if lines else ways


def _in_lines(ways: Sequence[Way], console: Console) -> Iterator[Way]:
    for number, way in enumerate(ways, 1):
        console.print(Text(f"looking for what fits, {number} of {len(ways)}: {way.title}"), soft_wrap=True)
        yield way
