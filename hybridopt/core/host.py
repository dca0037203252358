"""What stands beside a GPU: the host's memory, its bus and its disk, as far as they are given or were measured."""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

from .errors import HybridOptError, check_number
from .sizes import MOST, bytes_of, parse_size

__all__ = ["ASSUMED", "Host", "Speed", "host", "noted", "note_speeds", "parse_speed", "speeds_file"]

# Of bytes a second, where nobody has measured them: PCIe 4 with 16 lanes, and a usual NVMe drive.
ASSUMED = {"bus": 25e9, "disk": 3e9}
LARGEST = 1 << 16  # bytes of the file of measured speeds


@dataclass(frozen=True)
class Speed:
    """Bytes a second, and how they are known.

    Args:
        bytes: a second.
        known: "given", "assumed", or "measured" with the day.
    """

    bytes: float
    known: str = "given"

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:,.3g} GB/s" if self.bytes >= 1e9 else f"{self.bytes / 1e6:,.0f} MB/s"
        return f"{size} ({self.known})"


@dataclass(frozen=True)
class Host:
    """The machine around a GPU.

    Args:
        memory: bytes that weights may take there; None: not known.
        bus: between the host's memory and the GPU.
        disk: that is read.
    """

    memory: int | None = None
    bus: Speed = Speed(ASSUMED["bus"], "assumed")
    disk: Speed = Speed(ASSUMED["disk"], "assumed")

    def missing(self, size: int) -> int:
        """Return the bytes that are lacking for so many; 0 where they fit, or nobody knows."""
        return 0 if self.memory is None else max(0, size - self.memory)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        speeds = {"bus": self.bus, "disk": self.disk}
        told = {f"{name}_bytes_per_second": round(speed.bytes) for name, speed in speeds.items()}
        return {"memory_bytes": self.memory} | told | {f"{name}_is": speed.known for name, speed in speeds.items()}


def host(memory: str | int | None = None, bus: str | float | None = None, disk: str | float | None = None) -> Host:
    """Return the host of the facts that are given; the speeds that are not are measured ones, or assumed.

    Args:
        memory: a size ("64GiB"), or bytes; None: not known.
        bus: a speed ("25GB/s"), or bytes a second; None: as `hybridopt doctor` has measured it here.
        disk: likewise.

    Raises:
        HybridOptError: a size or a speed is none.
    """
    size = None if memory is None else bytes_of(memory, "host")
    known = noted()
    speeds = {name: _speed(given, name, known) for name, given in (("bus", bus), ("disk", disk))}
    return Host(size, **speeds)


def parse_speed(text: str, name: str = "speed") -> float:
    """Return the bytes a second of "25GB/s" or "500 MB/s"; HybridOptError for anything else."""
    size, slash, second = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not slash or second.strip().lower() not in ("s", "sec", "second"):
        raise HybridOptError(f"{name}={text!r} is no speed; write bytes a second with a unit, such as '25GB/s'")
    return float(parse_size(size, name))


def speeds_file() -> Path:
    """Return the file that `hybridopt doctor` notes measured speeds in, in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "hybridopt" / "speeds.json"


def note_speeds(measured: Mapping[str, float], today: date | None = None) -> Path | None:
    """Keep speeds of this machine's "bus" and "disk", in bytes a second, with the day; those not measured stay.

    Return the file; None where it cannot be written, as a cache is never needed.
    """
    day = (today or date.today()).isoformat()
    new = {name: {"bytes_per_second": round(speed), "date": day} for name, speed in measured.items()}
    path, machine = speeds_file(), platform.node()
    whole = {"machine": machine, "speeds": _kept(path, machine) | new}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(whole, indent=1) + "\n")
        os.replace(temporary, path)
        return path
    return None


def noted() -> dict[str, Speed]:
    """Return the speeds that were measured on this machine, by name; {} where there are none."""
    found = _kept(speeds_file(), platform.node())
    return {name: Speed(float(each["bytes_per_second"]), f"measured {each['date']}") for name, each in found.items()}


def _kept(path: Path, machine: str) -> dict[str, dict[str, Any]]:
    """Return what a file holds of speeds of a machine; {} for another machine's, and for what is no such file."""
    try:
        with open(path, "rb") as file:
            whole = json.loads(file.read(LARGEST))
        told = whole["speeds"].items() if whole["machine"] == machine else ()
        return {name: each for name, each in told if name in ASSUMED and _is_speed(each)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _is_speed(told: Any) -> bool:
    number, day = told["bytes_per_second"], told["date"]
    return _is_count(number) and isfinite(number) and number > 0 and date.fromisoformat(day) is not None


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _speed(given: str | float | None, name: str, known: Mapping[str, Speed]) -> Speed:
    if given is None:
        return known.get(name, Speed(ASSUMED[name], "assumed"))
    if isinstance(given, str):
        return Speed(parse_speed(given, name))
    check_number("host", name, given, 1, MOST)
    return Speed(float(given))
