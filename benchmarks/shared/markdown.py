"""Numbers and tables as Markdown."""

import math
from statistics import mean, stdev


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, the first column to the left and the rest to the right."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)) + "\n"


def page(title: str, note: str, *tables: str) -> str:
    """Return a Markdown page: a heading, what was measured and how, and tables."""
    return "\n".join([f"# {title}\n", f"{note.strip()}\n", *tables])


def human(size: int) -> str:
    """Return bytes in decimal units: 0 B, 12.3 kB, 86.4 MB."""
    power = min(int(math.log10(size) // 3), 4) if size else 0
    digits = 1 if power else 0
    return f"{size / 1000**power:.{digits}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def spread(values: list[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for a single value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def measured_with(environment: dict) -> str:
    """Return the sentence that stands below a table."""
    return "Measured with " + ", ".join(f"{key} {value}" for key, value in environment.items()) + ".\n"
