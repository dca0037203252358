"""Show estimates in a terminal: as a table, and as stacked bars against the GPU's memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ..core.sizes import human
from .estimate import Estimate
from .ways.search import Choice
from .ways.ways import Way

__all__ = ["Bar", "COLORS", "bars", "choices_table", "estimate_table", "legend", "watched"]

COLORS = {
    "weights": "blue",
    "quantization": "cyan",
    "gradients": "red",
    "state": "magenta",
    "activations": "green",
    "temporaries": "yellow",
    "overhead": "bright_black",
}
MEANING = {
    "weights": "parameters and buffers, as they are kept",
    "quantization": "scales and tables of quantized weights",
    "gradients": "alive at the peak",
    "state": "of the optimizer, in its largest window",
    "activations": "made by the forward pass, alive at the peak",
    "temporaries": "made after it, alive at the peak",
    "overhead": "CUDA context and workspaces: an allowance",
}
WIDTH, NARROW = 60, 20  # characters of a whole bar, and of one where there is little room


def estimate_table(estimate: Estimate, memory: int | None = None) -> RenderableType:
    """Tabulate every part with its bytes and share, the peak, and, with `memory` in bytes, whether it fits."""
    table = Table(title=escape(_title(estimate)))
    table.add_column("what")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("that is")
    for name, size in estimate.parts.items():
        share = f"{size / estimate.peak_bytes:.1%}"
        table.add_row(f"[{COLORS[name]}]■[/] {name}", human(size), share, MEANING[name])
    table.add_section()
    table.add_row("peak", human(estimate.peak_bytes), "", f"at: {estimate.stage}")
    lines: list[RenderableType] = [table, Bar(estimate, max(estimate.peak_bytes, memory or 0), memory)]
    if estimate.unquantized is not None and estimate.unquantized.much:
        lines.append(Text(str(estimate.unquantized)))
    return Group(*lines, *([_verdict(estimate, memory)] if memory else []))


def choices_table(choices: Sequence[Choice], memory: int) -> RenderableType:
    """Show ranked ways with their bars: for what fits the lines to paste, for what does not what would help."""
    fitting = [c for c in choices if c.fits]
    parts: list[RenderableType] = [
        legend(),
        bars([(_label(i, c), c.estimate) for i, c in enumerate(fitting, 1)], memory),
    ]
    for number, choice in enumerate(fitting, 1):
        parts += [Text(f"\n{number}. {choice.way.title} (given up: {choice.way.why})", "bold"), _code(choice)]
    others = [c for c in choices if not c.fits]
    if others:
        parts += [Text("\nWhat does not fit:", "bold"), bars([(c.way.title, c.estimate) for c in others], memory)]
        parts += [Text(f"{c.way.title}: {c.change or 'no single change makes it fit'}") for c in others]
    return Group(*parts)


def bars(estimates: Sequence[tuple[str, Estimate]], memory: int | None = None) -> Table:
    """Draw a stacked bar for each of several estimates, given with labels, all on one scale."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column()
    table.add_column(no_wrap=True)
    scale = max(memory or 0, *(e.peak_bytes for _, e in estimates))
    for label, estimate in estimates:
        table.add_row(escape(label), Bar(estimate, scale, memory), human(estimate.peak_bytes))
    return table


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


def legend() -> Text:
    """Say which color stands for which part."""
    return Text("  ").join(Text(f"■ {name}", COLORS[name]) for name in COLORS)


def _code(choice: Choice) -> Text:
    """Return the lines of a choice unbroken, as they are to be pasted."""
    return Text(choice.code, no_wrap=True, overflow="ignore")


def _label(number: int, choice: Choice) -> str:
    r = choice.request
    extra = ["checkpointing"] * r.checkpointing + ["loss in chunks"] * bool(r.chunk) + [r.release] * r.frees_gradients
    return f"{number}. {choice.way.title}" + (f" ({', '.join(extra)})" if extra else "")


def _title(estimate: Estimate) -> str:
    r = estimate.request
    lora = f", LoRA r={r.lora}{f' in {r.adapter_dtype}' if r.adapter_dtype else ''}" if r.lora else ""
    base = f" on {r.quantization}" if r.quantization else ""
    passes = f" x {r.micro_batches}" if r.micro_batches > 1 else ""
    how = f"{r.as_dict()['policy']}{lora}{base}, {r.release} release{', checkpointing' * r.checkpointing}"
    how += f", loss by {r.chunk} tokens" if r.chunk else ""
    return f"{estimate.model}: {how}, {r.batch} x {r.seq_len} tokens{passes}"


def _verdict(estimate: Estimate, memory: int) -> str:
    missing = estimate.missing(memory)
    if missing:
        return f"[red]does not fit[/] into {human(memory)}: {human(missing)} are missing"
    return f"[green]fits[/] into {human(memory)}: {human(memory - estimate.peak_bytes)} are left"


def watched(ways: Sequence[Way]) -> Iterable[Way]:
    """Hand on the ways one by one, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    return track(ways, "Looking for what fits", console=console, transient=True, disable=not console.is_terminal)
