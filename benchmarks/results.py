"""What every benchmark does with its numbers: one JSON file a run, a Markdown table, a plot with error bars."""

import json
import math
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import mean, stdev

import torch

MARKERS = "osD^vP<>X*p"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "hybridopt")


def write(path: Path, text: str) -> None:
    """Publish `text` at `path` whole or not at all: a run that is stopped leaves no half-written result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)


def save(path: Path, record: dict) -> None:
    """Write one record as JSON."""
    write(path, json.dumps(record, indent=1) + "\n")


def load(path: Path, settings: dict) -> dict | None:
    """Return the record at `path`, None if there is none; ValueError if it was made with other settings."""
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    other = {key for key in settings if record["settings"].get(key) != settings[key]}
    if other:
        was, now = ({key: source.get(key) for key in sorted(other)} for source in (record["settings"], settings))
        raise ValueError(f"{path} was made with {was}, not {now}; choose another folder with --out")
    return record


def environment() -> dict:
    """Return the versions, the processor, the threads and the date that a measurement depends on."""
    return {
        **{name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed as one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def spread(values: list[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for a single value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def human(size: int) -> str:
    """Bytes in decimal units: 0 B, 12.3 kB, 86.4 MB."""
    power = min(int(math.log10(size) // 3), 4) if size else 0
    digits = 1 if power else 0
    return f"{size / 1000**power:.{digits}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, the first column to the left and the rest to the right."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)) + "\n"


@dataclass(frozen=True)
class Point:
    """One method in a plot: x in bytes (0 allowed), y with its standard deviation."""

    label: str
    x: int
    y: float
    error: float


def plot(points: list[Point], path: Path, ylabel: str, xlabel: str = "bytes of optimizer state, log scale") -> None:
    """Draw the points against bytes on a log axis; a size of zero stands left of a break, under a tick named 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    axes.set_xscale("log")
    zero = zero_place(points)
    places = [point.x or zero for point in points]
    for index, (point, x) in enumerate(zip(points, places, strict=True)):
        marker = MARKERS[index % len(MARKERS)]
        axes.errorbar(x, point.y, point.error, fmt=marker, capsize=4, alpha=0.85, label=point.label)
    bytes_axis(axes, places, zero if 0 in [point.x for point in points] else None)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def zero_place(points: list[Point]) -> float:
    """Where 0 bytes is drawn on the log axis: a decade left of the smallest real size."""
    return 10 ** (math.floor(math.log10(min((point.x for point in points if point.x), default=10))) - 1)


def bytes_axis(axes, places: list[float], zero: float | None) -> None:
    """Name the decades in bytes, and 0 (with a break in the axis) where some method keeps no state."""
    low, high = math.floor(math.log10(min(places))), math.ceil(math.log10(max(places)))
    decades = [10.0**power for power in range(low, high + 1)]
    names = ["0" if tick == zero else human(int(tick)).replace(".0", "") for tick in decades]
    axes.set_xticks(decades, names)
    axes.minorticks_off()
    axes.set_xlim(decades[0] / 2, max(places) * 2)
    if zero:
        axes.axvline(zero * 3, color="grey", linestyle=":", linewidth=1)
