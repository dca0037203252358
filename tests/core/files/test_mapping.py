"""Mapped files: views of the right bytes, pages that come and go, and what happens to the file meanwhile."""

import errno
import os
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.files import mapping, pages
from hybridopt.core.files.mapping import MappedFile, fits, runs
from hybridopt.core.files.pages import PAGE

VALUES = torch.arange(5 * PAGE // 4 + 3, dtype=torch.int32)


def written_to(folder):
    path = Path(folder) / "weights"
    path.write_bytes(VALUES.numpy().tobytes())
    return path


@pytest.fixture
def path(tmp_path):
    return written_to(tmp_path)


@pytest.fixture(params=[True, False], ids=["copied where written", "read-only"])
def file(path, request, monkeypatch):
    monkeypatch.setattr(pages, "copies", lambda: request.param)
    return MappedFile(path)


def whole(file):
    return file.tensor((0, file.size), (len(VALUES),), torch.int32)


def test_tensors_are_views_without_a_warning(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = MappedFile(file.path).tensor((8, 8 + 24), (2, 3), torch.int32)
    assert torch.equal(x, VALUES[2:8].view(2, 3))
    assert x.data_ptr() == x.untyped_storage().data_ptr() + 8


def test_tensors_outlive_their_file_object(path):
    x = whole(MappedFile(path))
    path.unlink()
    assert torch.equal(x, VALUES)


@pytest.mark.parametrize(
    ("extents", "found"),
    [
        ([(0, 4)], [(0, PAGE)]),
        ([(PAGE - 1, PAGE + 1)], [(0, 2 * PAGE)]),
        ([(3 * PAGE, 3 * PAGE + 8), (0, PAGE), (PAGE, PAGE + 1)], [(0, 2 * PAGE), (3 * PAGE, 4 * PAGE)]),
        ([(8, 16), (16, 24), (4 * PAGE, 4 * PAGE)], [(0, PAGE)]),
        ([(0, 10 * PAGE), (PAGE, 2 * PAGE)], [(0, 10 * PAGE)]),
    ],
)
def test_extents_become_few_runs_of_whole_pages(extents, found):
    assert runs(extents) == found


def test_bytes_at_odd_places_are_copied_not_viewed(file):
    assert fits((8, 12), torch.int32) and not fits((6, 10), torch.int32) and fits((6, 10), torch.bfloat16)
    with pytest.raises(HybridOptError, match="begins at byte 6, which is no multiple"):
        file.tensor((6, 14), (2,), torch.int32)
    raw = VALUES.view(torch.uint8)[6:14]
    assert torch.equal(file.copy((6, 14), (2,), torch.int32).view(torch.uint8), raw)


def resident(file, run):
    """Pages of a file that this process has in memory."""
    entries = Path("/proc/self/pagemap").open("rb", buffering=0)
    with entries:
        found = os.pread(entries.fileno(), (run[1] - run[0]) // PAGE * 8, (file._start + run[0]) // PAGE * 8)
    return sum(entry >> 63 for entry in memoryview(found).cast("Q"))


@pytest.mark.parametrize("fills", [True, False], ids=["new kernel", "old kernel"])
def test_a_fetch_brings_the_pages_and_a_drop_takes_them(file, fills, monkeypatch):
    if not fills:
        monkeypatch.setattr(pages, "POPULATE_READ", 12345)
        assert not pages.fill(file._start, PAGE)
    end = runs([(0, file.size)])[0][1]
    run = (PAGE, end)
    file.drop((0, end))
    assert resident(file, run) == 0
    file.fetch(run)
    assert resident(file, run) == 5
    file.drop(run)
    assert resident(file, run) == 0
    assert torch.equal(whole(file), VALUES)


@pytest.mark.parametrize("fills", [True, False], ids=["new kernel", "old kernel"])
def test_a_file_that_ends_too_early_is_an_error_not_a_signal(file, fills, monkeypatch):
    if not fills:
        monkeypatch.setattr(pages, "POPULATE_READ", 12345)
    os.truncate(file.path, PAGE)
    with pytest.raises(HybridOptError, match="cannot be read .*(ends before|ends at byte 4096)"):
        file.fetch((0, 3 * PAGE))


def later(path):
    os.utime(path, ns=(1, 1))


def replaced(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    state = path.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)


CHANGES = {
    "touched": (later, "was changed"),
    "cut": (lambda path: os.truncate(path, 100), "was changed"),
    "longer": (lambda path: path.open("ab").write(b"x"), "was changed"),
    "replaced by its equal": (replaced, "was changed"),
    "gone": (Path.unlink, "is not there any more"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_happened_to_a_file_is_told(path, change):
    file = MappedFile(path)
    file.check()
    act, words = CHANGES[change]
    act(path)
    with pytest.raises(HybridOptError, match=words):
        file.check()


def test_writing_copies_a_page_is_told_and_never_reaches_the_file(path):
    file = MappedFile(path)
    run = (0, runs([(0, file.size)])[0][1])
    file.fetch(run)
    assert not file.written(run)
    x = whole(file)
    x[PAGE // 4 + 1] = -1
    assert file.written(run) and file.written((PAGE, 2 * PAGE)) and not file.written((0, PAGE))
    assert int(x[PAGE // 4 + 1]) == -1 and path.read_bytes() == VALUES.numpy().tobytes()
    file.drop(run)
    assert not file.written(run) and torch.equal(x, VALUES)


@pytest.mark.parametrize("cached", [True, False])
def test_the_systems_cache_is_given_back_where_that_is_asked_for(file, cached, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: told.append(args))
    file.drop((0, PAGE), cached)
    assert told == ([] if cached else [(file._file, 0, PAGE, os.POSIX_FADV_DONTNEED)])


def test_a_file_system_that_takes_no_advice_is_used_all_the_same(file, monkeypatch):
    def refused(*args):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refused)
    file.drop((0, PAGE), cached=False)
    assert torch.equal(whole(file), VALUES)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no tmpfs here")
def test_files_in_memory_are_mapped_too():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = MappedFile(written_to(folder))
        file.fetch((0, PAGE))
        file.drop((0, PAGE), cached=False)
        assert torch.equal(whole(file), VALUES)


def test_what_cannot_be_mapped_is_refused(tmp_path, path, monkeypatch):
    (tmp_path / "empty").touch()
    for bad in (tmp_path / "empty", tmp_path / "none", tmp_path):
        with pytest.raises(HybridOptError, match="cannot be mapped"):
            MappedFile(bad)
    with pytest.raises(HybridOptError, match="has .* bytes, and its header speaks of"):
        MappedFile(path).tensor((0, 10**6), (250_000,), torch.int32)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(HybridOptError, match="on darwin: .*on Linux alone"):
        MappedFile(path)


def test_maps_are_read_only_where_data_is_limited(monkeypatch):
    import resource

    assert pages.copies()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 30, 1 << 30))
    assert not pages.copies()


def test_a_map_falls_back_to_read_only_where_memory_would_be_set_aside(path, monkeypatch):
    real = mapping.pages.mmap.mmap

    def strict(*args, **how):
        if how["prot"] & pages.mmap.PROT_WRITE:
            raise OSError(12, "Cannot allocate memory")
        return real(*args, **how)

    monkeypatch.setattr(pages.mmap, "mmap", strict)
    assert torch.equal(whole(MappedFile(path)), VALUES)


def test_tensors_of_a_file_do_not_count_the_writes_to_each_other(path):
    """Autograd would take what it has saved of one for written, once another one is."""
    file = MappedFile(path)
    weight, other = (torch.nn.Parameter(file.tensor((8 * i, 8 * i + 8), (2,), torch.float32)) for i in (0, 1))
    loss = (torch.ones(2, requires_grad=True) * weight).sum()
    with torch.no_grad():
        other.set_(other.data)  # as parametrizations do
    loss.backward()
    assert weight._version == 0 and other._version == 1
