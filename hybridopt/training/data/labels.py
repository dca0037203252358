"""Classes by name, and their numbers."""

from collections import Counter

from ...core.errors import HybridOptError

__all__ = ["Labels"]

MANY = 0.5  # share of the rows from which so many classes are told


class Labels:
    """The classes of a data set: names in order, numbers from 0.

    Args:
        counts: rows by class, as the data writes classes; whole numbers are sorted by value, names by the alphabet.
    """

    def __init__(self, counts: Counter[str | int]):
        self.counts = counts
        self.names = tuple(str(label) for label in sorted(counts, key=_order))
        self._ids = {name: number for number, name in enumerate(self.names)}

    def id(self, label: str | int) -> int:
        """Return the number of a class."""
        return self._ids[_name(label)]

    def check(self) -> list[str]:
        """Return lines for people; HybridOptError for fewer than two classes."""
        if len(self.names) < 2:
            one = ", ".join(self.names)
            raise HybridOptError(
                f"data.train: all rows have the label {one!r}; a classifier needs two classes or more"
            )
        rows = sum(self.counts.values())
        told = [f"data.train: {len(self.names)} classes: {_listed(self.counts)}"]
        if len(self.names) > MANY * rows:
            told.append(f"data.train: {len(self.names)} classes in {rows} rows: is label the column that is meant?")
        return told

    def check_known(self, others: Counter[str | int]) -> None:
        """Raise HybridOptError for classes of the evaluation that training has not."""
        if unknown := [str(label) for label in sorted(others, key=_order) if _name(label) not in self._ids]:
            raise HybridOptError(
                f"data.eval: the label {unknown[0]!r} is in no row of data.train (its labels: {', '.join(self.names)})"
            )


def _name(label: str | int) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def _order(label: str | int) -> tuple[bool, int, str]:
    """Sort what are whole numbers by value, also as text; names after them."""
    text = str(label)
    number = int(text) if text.removeprefix("-").isdecimal() and len(text) < 19 else None
    return number is None, number or 0, text


def _listed(counts: Counter[str | int]) -> str:
    most = [f"{label} ({count})" for label, count in counts.most_common(8)]
    return ", ".join(most) + (", ..." if len(counts) > len(most) else "")
