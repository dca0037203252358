"""Memory of the host that is really left: to this container, not only on the machine."""

from pathlib import Path

from .system_files import words

__all__ = ["left"]

GROUPS = (  # what a control group may take and has taken, as versions 2 and 1 of them tell
    ("sys/fs/cgroup", "memory.max", "memory.current"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def left(root: Path) -> int | None:
    """Return the bytes that programs may still take: the least of what the machine and the container have left.

    root: where the system's own files lie. None where they do not tell.
    """
    machine = words(root / "proc/meminfo", "MemAvailable:")
    told = [int(machine[0]) * 1024 if machine else None]
    told += [_of_group(root / folder, limit, usage) for folder, limit, usage in GROUPS]
    return min((size for size in told if size is not None), default=None)


def _of_group(folder: Path, limit: str, usage: str) -> int | None:
    """Return what a control group has left; files in the page cache make room."""
    most, used = words(folder / limit), words(folder / usage)
    if not (most and used and most[0].isdigit()):  # "max": there is no limit
        return None
    cached = words(folder / "memory.stat", "inactive_file")
    return max(0, int(most[0]) - int(used[0]) + int(cached[0] if cached else 0))
