"""Drawings on terminals whose encoding has no signs to draw with."""

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

__all__ = ["Writable"]

SIGNS = str.maketrans("■█·", "##.")


@dataclass(frozen=True)
class Writable:
    """What is drawn, with ASCII in place of its signs where the terminal has nothing else.

    what: anything of rich.
    """

    what: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.what, options):
            yield (
                segment
                if not options.ascii_only
                else Segment(segment.text.translate(SIGNS), segment.style, segment.control)
            )
