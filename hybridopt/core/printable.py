"""Text that others have written, made fit for a terminal."""

from unicodedata import bidirectional, category

__all__ = ["visible"]

TURNS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))  # they reorder what follows


def visible(text: str) -> str:
    """Return a text whose control characters stand as numbers, as they would command a terminal or reorder a line."""
    return "".join(ascii(c)[1:-1] if _commands(c) else c for c in text)


def _commands(c: str) -> bool:
    return c not in "\n\t" and (category(c) == "Cc" or bidirectional(c) in TURNS)
