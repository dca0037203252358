"""Text that others have written, made fit for a terminal."""

from unicodedata import category

__all__ = ["visible"]


def visible(text: str) -> str:
    """Return a text whose control characters stand as numbers, as they would command a terminal."""
    return "".join(ascii(c)[1:-1] if category(c) == "Cc" and c not in "\n\t" else c for c in text)
