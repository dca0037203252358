"""The first example as text, with the tokens marked that the loss counts."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from ....core.printable import visible
from .rehearsal import Rehearsal

__all__ = ["preview"]

TRAINED, SHOWN = "bold green", 600  # tokens of a sequence that are shown at most
COLOURED, BRACKETED = "in colour: what the loss counts", "in [brackets]: what the loss counts"


def preview(rehearsal: Rehearsal, console: Console) -> list[Text]:
    """Return lines that show the first example.

    Args:
        rehearsal: of the run.
        console: where they are shown; without colours what is trained stands in brackets.
    """
    colours = console.color_system is not None and console.is_terminal
    marked = any(any(piece.trained) for piece in rehearsal.first)
    heading = f" ({COLOURED if colours else BRACKETED})" if marked else ""
    lines = [Text(f"The first example{heading}:", "bold")]
    for piece in rehearsal.first:
        line = Text("  ").append(f"{piece.title}: " if piece.title else "", "dim")
        trained = piece.trained or [False] * len(piece.tokens)
        for text, learnt in _parts(piece.tokens, trained, rehearsal.job.tokenizer):
            line.append(text if colours or not learnt else f"[{text}]", TRAINED if learnt else "")
        lines.append(line)
    return lines


def _parts(tokens: Any, trained: Any, tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """Yield the text of every run of tokens that are trained, or that are not; a long middle is left out."""
    pairs = list(zip(tokens, trained, strict=True))
    left_out = len(pairs) - SHOWN
    for part in [pairs] if left_out <= 0 else [pairs[: SHOWN // 2], pairs[-SHOWN // 2 :]]:
        if part is not pairs and part[-1] is pairs[-1]:
            yield f" ... {left_out:,} tokens ... ", False
        for learnt, group in groupby(part, key=lambda pair: bool(pair[1])):
            yield visible(tokenizer.decode([token for token, _ in group])), learnt
