"""Where a printed kernel keeps vectors between the rounds of a rule: places in one array, by the matrix's size."""

from dataclasses import dataclass, field

__all__ = ["Room"]


@dataclass
class Room:
    """Vectors of as many numbers as there are rows, columns, or of a given number, one after the other."""

    places: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int, int] = (0, 0, 0)  # vectors by row, vectors by column, single numbers

    def add(self, key: str, length: str) -> str:
        """Keep room for a vector, and return where it begins, in C++.

        Args:
            key: by which `places` has it.
            length: "rows", "width" or a number.
        """
        self.places[key] = f"room + ({self.text})"
        rows, columns, single = self.size
        if length == "rows":
            rows += 1
        elif length == "width":
            columns += 1
        else:
            single += int(length)
        self.size = rows, columns, single
        return self.places[key]

    @property
    def text(self) -> str:
        """Return how many numbers there are, in C++."""
        return sized(self.size)


def sized(size: tuple[int, int, int]) -> str:
    """Return a number of vectors by row, vectors by column and single numbers, in C++."""
    return f"{size[0]} * rows + {size[1]} * width + {size[2]}"
