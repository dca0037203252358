"""What only some systems have is not needed to import the package, nor to use it without that."""

import importlib.util
import mmap
import os
from pathlib import Path

import pytest
import torch

import hybridopt
from hybridopt.model.placement.lanes.host import HostLane

OF_SOME = (
    "register_at_fork",
    "pread",
    "pwrite",
    "preadv",
    "posix_fadvise",
    "O_DIRECT",
    "sched_getaffinity",
    "sysconf",
)
ROOT = Path(hybridopt.__file__).parent


def imported(path):
    """Import a file of the package once more, beside the module that is there."""
    name = f"{'.'.join((hybridopt.__name__, *path.relative_to(ROOT).parent.parts))}._again"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def windows(monkeypatch):
    for name in OF_SOME:
        monkeypatch.delattr(os, name, raising=False)
    for name in [name for name in vars(mmap) if name.startswith(("MAP_", "PROT_", "MADV_"))]:
        monkeypatch.delattr(mmap, name)
    monkeypatch.setattr("sys.platform", "win32")


def files():
    """Return the files that speak of the systems' own names."""
    told = ("import mmap", "import fcntl", "import resource", "ctypes", *(f"os.{name}" for name in OF_SOME))
    return [path for path in sorted(ROOT.rglob("*.py")) if any(word in path.read_text("utf-8") for word in told)]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_every_file_is_imported_without_what_only_some_systems_have(windows, path):
    imported(path)


def test_memory_of_the_host_is_there_on_windows(windows, monkeypatch):
    from hybridopt.model.placement.storage import arena

    class Plain(mmap.mmap):
        def __new__(cls, number, size):
            return super().__new__(cls, number, size)

        unpin = None

    monkeypatch.setattr(arena, "_Memory", Plain)
    there = arena.Arena(100, HostLane())
    there.bytes.fill_(3)
    assert there.size == mmap.PAGESIZE and torch.equal(there.bytes[:2], torch.tensor([3, 3], dtype=torch.uint8))
