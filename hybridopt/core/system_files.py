"""What the system tells in files of its own, which need not be there."""

from pathlib import Path

__all__ = ["words"]


def words(path: Path, key: str = "") -> list[str]:
    """Return the words of a file, or those after `key` in the first line that it begins; none without the file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    if not key:
        return [word for line in lines for word in line]
    return next((line[1:] for line in lines if line[:1] == [key]), [])
