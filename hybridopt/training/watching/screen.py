"""What a run shows: one live line on a terminal, plain lines now and then elsewhere."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.text import Text

from .fields import GAP, Field, Goal, fields, fitting
from .sparkline import ASCII, BARS, Curve

__all__ = ["Screen"]

WIDE = 16  # characters of the curve
APART = 1.0  # seconds from one plain line to the next, or a pipe would be flooded
OFTEN = 4  # times a second that the live line is drawn


class Screen:
    """The line of a run: step, epoch, loss with its curve, rate, norm, speed, memory, and the time that is left.

    On a terminal one line is drawn anew, and what is least important is left out until it fits. Elsewhere a record is
    a line of its own, at most one a second; the first, the last and those of evaluations are always printed.

    Args:
        console: where to print.
        total_steps: of the run; None: not known, and so is the time that is left.
        planned_bytes: the planned peak of memory; None: not known.
        limit_bytes: of the device; a peak above it is shown in red. None: not known.
        clock: returns seconds.
    """

    def __init__(
        self,
        console: Console,
        total_steps: int | None = None,
        planned_bytes: int | None = None,
        limit_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console, self.goal = console, Goal(total_steps, planned_bytes, limit_bytes)
        self._clock = clock
        self._bars = ASCII if console.options.ascii_only else BARS
        self._shown: dict[str, Any] = {}  # the newest value of everything
        self._losses = Curve()
        self._begin: tuple[int, float] | None = None  # step and seconds from which the speed is worked out
        self._pace: float | None = None  # seconds a step
        self._doing: Field | None = None  # beside training
        self._live: Live | None = None
        self._printed, self._waiting = -math.inf, False  # seconds of the last plain line; is one held back?

    def show(self, record: Mapping[str, Any]) -> None:
        """Show a record of log.jsonl; None is a number that is infinite or none."""
        self._shown |= {key: math.nan if value is None else value for key, value in record.items()}
        self._doing = None
        if "loss" in record:
            self._losses.add(self._shown["loss"])
        self._measure(record)
        if self._terminal:
            self._draw()
        else:
            self._print(first=not self._waiting and self._printed == -math.inf, now="eval_loss" in record)

    def expect(self, total_steps: int) -> None:
        """Take it that the run has so many steps, unless the number was given."""
        if self.goal.steps is None and total_steps > 0:
            self.goal = replace(self.goal, steps=total_steps)

    def step(self, done: int) -> None:
        """Show that a step is done which has no record; lines that are no terminal's do not change."""
        if self._terminal and self._live is not None:
            self._shown["step"] = done

    def evaluating(self, done: int, total: int | None = None) -> None:
        """Show how many batches of an evaluation are done, of how many if that is known."""
        self._doing = Field(f"evaluating {done}{f'/{total}' if total else ''}", 0)
        if self._terminal and self._live is None:
            self._draw()

    def note(self, text: str) -> None:
        """Print a sentence above the line."""
        self.console.print(self._writable(text), soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the line as it is and print no more; a plain line that was held back is printed."""
        self._doing = None
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._waiting:
            self._print(now=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self._line(options.max_width)

    @property
    def _terminal(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def _measure(self, record: Mapping[str, Any]) -> None:
        """Note how long a step takes, evaluations and checkpoints included, as more of them come."""
        if "seconds" not in record or "step" not in record:
            return
        step, seconds = record["step"], record["seconds"]
        if self._begin is None:
            self._begin = step, seconds
        elif step > self._begin[0]:
            self._pace = (seconds - self._begin[1]) / (step - self._begin[0])

    def _left(self) -> float | None:
        if self._pace is None or self.goal.steps is None:
            return None
        return self._pace * max(0, self.goal.steps - self._shown.get("step", 0))

    def _fields(self) -> list[Field]:
        return fields(
            self._shown, self.goal, self._left(), self._losses.drawn(WIDE, self._bars) if self._terminal else ""
        )

    def _line(self, width: int | None) -> Text:
        found = self._fields() + ([self._doing] if self._doing else [])
        line = Text(no_wrap=True, overflow="crop")
        for field in fitting(found, width):
            line.append(GAP if line else "")
            line.append(field.text, "bold red" if field.alarm else "")
        return line

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(self, console=self.console, refresh_per_second=OFTEN)
            self._live.start()

    def _print(self, first: bool = False, now: bool = False) -> None:
        seconds = self._clock()
        self._waiting = not (first or now or seconds - self._printed >= APART)
        if not self._waiting:
            self._printed = seconds
            self.note(self._line(None).plain)

    def _writable(self, text: str) -> str:
        return text.encode("ascii", "replace").decode() if self.console.options.ascii_only else text
