"""A saved folder is one whole version at every moment, and whoever opens it learns what is wrong with it."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import lock
from hybridopt.saving.folder import COMMIT, TEMPORARY, open_folder, publish
from hybridopt.saving.manifest import MANIFEST
from support.children import fork, status

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
NAMES = {
    0: {"hybridopt_config.json", "weights.bin", "second/adapter.bin", "hybridopt_even.json"},
    1: {"hybridopt_config.json", "weights.bin", "hybridopt_delta.safetensors", "odd.txt"},
}


def version(number, size=1000):
    """A writer of version `number`: each file says which version it is of; odd and even have other files."""

    def write(path):
        for name in sorted(NAMES[number % 2]):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(f"{number} " * (size + number))

    return write


def opened(directory):
    """The version that the folder holds, after a check that all its files are of that one."""
    with open_folder(directory) as found:
        numbers = {int(number) for name in found.names for number in found.path(name).read_text().split()}
        assert len(numbers) == 1, f"a mixture of {numbers}"
        (number,) = numbers
        assert set(found.names) == NAMES[number % 2]
        return number


def listing(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def fingerprint(directory):
    """All that a write below `directory` would change."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        state = path.lstat()
        found[path] = (state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns)
    return found


@pytest.fixture(autouse=True, scope="module")
def quick_disk():
    """A killed process loses nothing that it wrote, so that only the order of calls to fsync needs a check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def saved(tmp_path):
    """A folder with version 0."""
    publish(tmp_path / "out", version(0))
    return tmp_path / "out"


@contextmanager
def refused(*words):
    with pytest.raises(HybridOptError) as caught:
        yield
    for word in words:
        assert str(word) in str(caught.value)


def test_folder_holds_what_was_written_and_nothing_else(saved):
    files = NAMES[0]
    assert set(listing(saved)) == {*files, "second", MANIFEST}
    with open_folder(saved) as found:
        assert found.names == tuple(sorted(files))
        assert found.path("second/adapter.bin") == saved / "second" / "adapter.bin"
        with refused("holds no 'odd.txt'", "weights.bin"):
            found.path("odd.txt")


def test_next_version_replaces_its_own_files_and_keeps_those_of_others(saved):
    (saved / "tokenizer.json").write_text("mine")
    (saved / "second" / "notes.txt").write_text("mine too")
    (saved / "checkpoint-5").mkdir()
    (saved / "checkpoint-5" / "adapter_config.json").write_text("{}")
    publish(saved, version(1))
    assert opened(saved) == 1
    kept = {"tokenizer.json", "second", "second/notes.txt", "checkpoint-5", "checkpoint-5/adapter_config.json"}
    assert set(listing(saved)) == {*NAMES[1], MANIFEST, *kept}
    assert (saved / "tokenizer.json").read_text() == "mine"


def test_manifest_is_as_documented(saved):
    data = json.loads((saved / MANIFEST).read_text())
    assert data["format"] == 1
    assert set(data["files"]) == NAMES[0]
    assert data["files"]["weights.bin"]["size"] == 2000
    assert len(data["files"]["weights.bin"]["sha256"]) == 64


def test_parents_are_made_and_a_link_to_a_folder_is_followed(tmp_path):
    publish(tmp_path / "a" / "b" / "out", version(3))
    assert opened(tmp_path / "a" / "b" / "out") == 3
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "out")
    publish(str(tmp_path / "link"), version(4))
    assert opened(tmp_path / "a" / "b" / "out") == 4 == opened(str(tmp_path / "link"))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_the_umask_asks_for(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        publish(tmp_path / "out", lambda path: save_file({"a": torch.ones(2)}, path / "weights.safetensors"))
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {mode}


# --- killed at any point -------------------------------------------------------------------------------------------


def dying_on(operations, count, work):
    """Do `work` in a process that is killed before number `count` (from 0) of these operations that write."""

    def limited():
        left = count

        def hook(event, arguments):
            nonlocal left
            if event in operations and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)  # before the clean-up of the test run is counted

    return status(fork(limited))


def test_killed_before_every_single_write(tmp_path):
    every = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
    seen, ends = set(), []
    while 0 not in ends:
        directory = tmp_path / str(len(ends))
        publish(directory, version(0, size=1))
        ends.append(dying_on(every, len(ends), lambda directory=directory: publish(directory, version(1, size=1))))
        number = opened(directory)
        seen.add((number, (directory / COMMIT / MANIFEST).exists()))
        before = fingerprint(directory)
        assert opened(directory) == number
        assert fingerprint(directory) == before, "reading writes"
        if (directory / COMMIT).exists():
            # Killed again while the remains are put in order, then left in peace.
            dying_on(every, len(ends) % 7, lambda directory=directory: publish(directory, version(2, size=1)))
            assert opened(directory) in {number, 2}
        publish(directory, version(3, size=1))
        assert opened(directory) == 3
        assert set(listing(directory)) == {*NAMES[1], MANIFEST}
    assert set(ends) == {-signal.SIGKILL, 0}
    assert len(ends) > 20
    # Some died before the commit point, some between it and the end, the last one after.
    assert seen == {(0, False), (1, True), (1, False)}


def test_killed_at_random_moments(saved):
    chance = random.Random(0)
    log = saved.parent / "log"
    log.write_text("0")

    def save_on(start):
        for number in range(start, start + 10_000):
            publish(saved, version(number, size=5_000))
            (saved.parent / "new").write_text(str(number))
            os.replace(saved.parent / "new", log)  # what the user was told is saved

    number = 0
    for _ in range(20):
        child = fork(lambda start=number + 1: save_on(start))
        time.sleep(chance.uniform(0.02, 0.2))
        os.kill(child, signal.SIGKILL)
        assert status(child) == -signal.SIGKILL
        told = max(number, int(log.read_text()))
        number = opened(saved)
        assert told <= number <= told + 1
    assert number > 20
    publish(saved, version(number + 1))
    assert set(listing(saved)) <= {*NAMES[0], *NAMES[1], "second", MANIFEST}


def test_everything_is_on_disk_before_the_commit_point(tmp_path, monkeypatch):
    synced, rename = set(), os.rename

    def record(handle):
        synced.add(os.fstat(handle).st_ino)

    def check(source, target):
        needed = {path.stat().st_ino for path in [Path(source), *Path(source).rglob("*")]}
        assert needed <= synced
        rename(source, target)
        synced.clear()

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", check)
    publish(tmp_path / "out", version(0))
    assert (tmp_path / "out").stat().st_ino in synced


def test_every_step_of_the_commit_is_on_disk_before_the_next(tmp_path, monkeypatch):
    """Else a power cut may keep a later step and lose an earlier one."""
    done, rename, replace, rmtree = [], os.rename, os.replace, shutil.rmtree

    def moved(act, source, target):
        act(source, target)
        done.append(Path(target).name)

    publish(tmp_path / "out", version(0))
    inode = (tmp_path / "out").stat().st_ino
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("sync" if os.fstat(handle).st_ino == inode else ""))
    monkeypatch.setattr(os, "rename", lambda source, target: moved(rename, source, target))
    monkeypatch.setattr(os, "replace", lambda source, target: moved(replace, source, target))
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: (rmtree(path, **options), done.append("removed")))
    publish(tmp_path / "out", version(1))
    steps = [step for step in done if step and not (step == "removed" and done.index(step) < done.index(COMMIT))]
    commit, sealed = steps.index(COMMIT), steps.index(MANIFEST)
    files = [i for i, step in enumerate(steps) if step in NAMES[1]]
    assert files and commit < min(files) <= max(files) < sealed
    assert "sync" in steps[commit : min(files)], "the new version is not known to be there before files move"
    assert "sync" in steps[max(files) : sealed], "the moved files are not known to be there before the manifest moves"
    assert "sync" in steps[sealed : steps.index("removed", sealed)], "removed before the manifest is known to be there"


# --- at the same time ----------------------------------------------------------------------------------------------


def test_reader_in_a_loop_sees_only_whole_versions(saved):
    def save():
        for number in range(1, 13):
            publish(saved, version(number))

    child, seen = fork(save), []
    while not seen or seen[-1] < 12:
        seen.append(opened(saved))
    assert status(child) == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


def test_files_stay_while_the_folder_is_open(saved):
    with open_folder(saved) as found:
        child = fork(lambda: publish(saved, version(1)))
        time.sleep(0.2)
        assert set(found.path("weights.bin").read_text().split()) == {"0"}
    assert status(child) == 0
    assert opened(saved) == 1


def test_savers_and_readers_that_wait_in_vain_say_so(saved):
    with open_folder(saved):
        with refused(saved, "is being saved or read", "waited 0.05 s"):
            publish(saved, version(1), wait=0.05)
        assert opened(saved) == 0
    with (
        lock.locked(saved, exclusive=True, wait=0),
        refused(saved, "is being saved or read"),
        open_folder(saved, 0.05),
    ):
        raise AssertionError
    assert opened(saved) == 0


def test_reading_goes_on_while_the_next_version_is_written(saved):
    def write(path):
        with open_folder(saved, wait=0) as found:
            assert found.names
        version(1)(path)

    publish(saved, write)
    assert opened(saved) == 1


def test_two_savers(saved):
    children = [fork(lambda of=of: [publish(saved, version(2 * n + of)) for n in range(1, 11)]) for of in (0, 1)]
    while os.waitpid(children[0], os.WNOHANG) == (0, 0):
        opened(saved)
    assert status(children[1]) == 0
    assert opened(saved) in {20, 21}
    assert set(listing(saved)) - {"second"} in [{*NAMES[0], MANIFEST}, {*NAMES[1], MANIFEST}]


def test_a_saver_at_work_is_no_stray(saved):
    def write(path):
        version(1)(path)
        publish(saved, version(2))

    (saved / f"{TEMPORARY}dead").mkdir()
    (saved / f"{TEMPORARY}dead" / "half.bin").write_text("half")
    publish(saved, write)
    assert opened(saved) == 1
    assert set(listing(saved)) == {*NAMES[1], MANIFEST}


def test_another_saver_dies_meanwhile(saved):
    def write(path):
        version(3)(path)
        moved = dying_on("os.rename", 2, lambda: publish(saved, version(2)))
        assert moved == -signal.SIGKILL and (saved / COMMIT / MANIFEST).exists()

    publish(saved, write)
    assert opened(saved) == 3
    assert set(listing(saved)) == {*NAMES[1], MANIFEST}


def test_without_locks_saving_works_and_sweeps_nothing(saved, monkeypatch):
    (saved / f"{TEMPORARY}unknown").mkdir()
    monkeypatch.setattr(lock, "fcntl", None)
    publish(saved, version(1))
    assert opened(saved) == 1
    assert (saved / f"{TEMPORARY}unknown").exists()


def test_a_disk_without_locks_does_not_keep_anyone_from_saving(saved, monkeypatch):
    def flock(handle, kind):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    publish(saved, version(1))
    assert opened(saved) == 1


# --- disks that fail -----------------------------------------------------------------------------------------------


def test_full_disk(saved):
    before = fingerprint(saved)

    def fill(write):
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with refused(saved, "File too large"):
            publish(saved, write)

    def by_library(path):
        save_file({"a": torch.ones(100_000)}, path / "adapter_model.safetensors")

    def by_manifest(path):
        for number in range(700):
            (path / f"{number}").touch()

    for write in (version(1, size=100_000), by_library, by_manifest):
        assert status(fork(lambda write=write: fill(write))) == 0
        assert opened(saved) == 0
        assert {**fingerprint(saved), saved: before[saved]} == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ZeroDivisionError()])
def test_writer_that_fails(saved, error):
    def write(path):
        version(1)(path)
        raise error

    with pytest.raises(HybridOptError if isinstance(error, OSError) else type(error)) as caught:
        publish(saved, write)
    assert error in (caught.value, caught.value.__cause__)
    assert opened(saved) == 0
    assert set(listing(saved)) == {*NAMES[0], "second", MANIFEST}


def test_failure_after_the_commit_point_says_that_the_new_version_is_in(saved, monkeypatch):
    def replace(source, target):
        raise OSError(5, "Input/output error", str(target))

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", replace)
        with refused(saved, "Input/output error", "new version is complete", "save again"):
            publish(saved, version(1, size=1))
    assert opened(saved) == 1
    publish(saved, version(2))
    assert opened(saved) == 2
    assert COMMIT not in listing(saved)


def test_places_where_nothing_can_be_saved(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, words in {
        tmp_path / "file": f"there is a file at {tmp_path / 'file'}",
        tmp_path / "file" / "below": f"there is a file at {tmp_path / 'file'}",
        tmp_path / "dangling": f"there is a link that leads nowhere at {tmp_path / 'dangling'}",
        tmp_path / "dangling" / "below": f"there is a link that leads nowhere at {tmp_path / 'dangling'}",
        tmp_path / "pipe": f"there is a device or a pipe at {tmp_path / 'pipe'}",
        Path("/dev/null"): "there is a device or a pipe at /dev/null",
        Path("/proc/self/out"): "/proc/self/out",
        tmp_path / ("x" * 300): "name too long",
    }.items():
        with refused(path, words):
            publish(path, version(0))
        with refused(path), open_folder(path):
            raise AssertionError
    assert (tmp_path / "file").read_text() == "precious"
    assert set(listing(tmp_path)) == {"file", "dangling", "pipe"}


def test_read_only_disk(saved, monkeypatch):
    mkdir = os.mkdir

    def refuse(path, *rest, **options):
        if TEMPORARY in str(path):
            raise OSError(30, "Read-only file system", str(path))
        mkdir(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    with refused(saved, "Read-only file system", "nothing saved there before has changed"):
        publish(saved, version(1))
    assert opened(saved) == 0


def test_targets_that_cannot_be_replaced_are_found_before_the_commit_point(saved):
    def check(number, *words):
        with refused(saved, *words):
            publish(saved, version(number))
        assert not (saved / COMMIT).exists()

    (saved / "odd.txt").mkdir()
    check(1, "odd.txt", "there is a folder")
    (saved / "odd.txt").rmdir()
    os.mkfifo(saved / "odd.txt")
    check(1, "odd.txt", "there is a device or a pipe")
    (saved / "odd.txt").unlink()
    shutil.rmtree(saved / "second")
    (saved / "second").symlink_to(saved.parent)
    check(2, "second", "a link leads out of")
    (saved / "second").unlink()
    (saved / "second").write_text("a file")
    check(2, "there is a file at", "second")
    (saved / "second").unlink()
    publish(saved, version(2))
    assert opened(saved) == 2
    assert set(listing(saved)) == {*NAMES[0], "second", MANIFEST}


def test_only_plain_files_are_published(saved):
    for make in (os.mkfifo, lambda path: os.symlink("/etc/hostname", path)):
        with refused("only plain files"):
            publish(saved, lambda path, make=make: make(path / "odd"))
    for name in (".hybridopt-x", "a\\b"):
        with refused("a plain path inside the folder"):
            publish(saved, lambda path, name=name: (path / name).touch())
    assert opened(saved) == 0


# --- damage --------------------------------------------------------------------------------------------------------


def spoil_bit(path):
    content = bytearray(path.read_bytes())
    content[700] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_bit, ["is damaged", "sha256", "restore"]),
        (lambda path: os.truncate(path, 1999), ["has 1999 bytes, the manifest says 2000", "restore"]),
        (lambda path: path.open("a").write("x"), ["has 2001 bytes"]),
        (lambda path: path.unlink(), ["is missing", "restore"]),
        (lambda path: (path.unlink(), path.mkdir()), ["is missing"]),
        (lambda path: (path.unlink(), os.mkfifo(path)), ["is missing"]),
        (lambda path: path.write_bytes((path.parent / "second/adapter.bin").read_bytes()[::-1]), ["is damaged"]),
    ],
)
def test_damaged_file(saved, spoil, words):
    spoil(saved / "weights.bin")
    with refused(saved / "weights.bin", *words), open_folder(saved):
        raise AssertionError
    if not (saved / "weights.bin").exists() or (saved / "weights.bin").is_file():
        publish(saved, version(1))
        assert opened(saved) == 1


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "hybridopt_replay.safetensors", "hybridopt_x.json"]
)
def test_foreign_file_with_a_name_of_ours(saved, name):
    (saved / name).write_text("from another run")
    with refused(saved / name, "belongs to no version", "remove it"), open_folder(saved):
        raise AssertionError
    with refused(saved / name, "belongs to no version"):
        publish(saved, version(1))
    assert (saved / name).read_text() == "from another run"
    (saved / name).unlink()
    assert opened(saved) == 0


def test_foreign_file_in_a_folder_of_another_program(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_text("trained for a week")
    with refused("adapter_model.safetensors", "belongs to no version"):
        publish(tmp_path, version(1))
    assert listing(tmp_path) == ["adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "it holds nothing"),
        (["adapter_config.json", "adapter_model.safetensors"], "plain PEFT adapter: use peft.PeftModel"),
        (["config.json", "model.safetensors"], "plain transformers model"),
        (["hybridopt_config.json", "adapter_config.json"], "copied without it"),
        ([f"checkpoint-5/{MANIFEST}", "config.txt"], "saved folders lie below it: checkpoint-5"),
        ([f"{TEMPORARY}1/x"], "a save that was interrupted"),
        (["data.csv"], "it holds data.csv; give a folder that model.hybrid.save_pretrained wrote"),
    ],
)
def test_folder_without_a_manifest_is_described(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with refused(tmp_path, "has no hybridopt_manifest.json", words), open_folder(tmp_path):
        raise AssertionError


GOOD = {"size": 2000, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[", "not valid JSON"),
        ("[]", "at the top"),
        ({}, "'format' is missing"),
        ({"format": 2, "files": {}}, "has format 2, but this hybridopt reads 1: install a newer one"),
        ({"format": True, "files": {}}, "'format' must be a whole number"),
        ({"format": 1, "files": {}, "run": "rm"}, "unknown key 'run'"),
        ({"format": 1}, "'files' is missing"),
        ({"format": 1, "files": []}, "'files' must be an object"),
        ({"format": 1, "files": {"weights.bin": 5}}, "'weights.bin' must be an object"),
        ({"format": 1, "files": {"weights.bin": {"size": 1}}}, "'sha256' is missing"),
        ({"format": 1, "files": {"weights.bin": {"size": 1.5, "sha256": ""}}}, "'size' must be a whole number"),
        ({"format": 1, "files": {"weights.bin": {**GOOD, "url": ""}}}, "unknown key 'url'"),
    ],
)
def test_bad_manifest(saved, data, words):
    (saved / MANIFEST).write_text(data if isinstance(data, str) else json.dumps(data))
    with refused(saved / MANIFEST, words), open_folder(saved):
        raise AssertionError


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret",
        "a/../../secret",
        "a//b",
        ".",
        "",
        "a/",
        "a\0b",
        "..\\secret",
        MANIFEST,
        ".hybridopt-x",
    ],
)
def test_hostile_names(saved, name):
    (saved.parent / "secret").write_text("secret")
    (saved / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: GOOD}}))
    with refused(saved / MANIFEST, "a plain path inside the folder is needed"), open_folder(saved):
        raise AssertionError
    # Nor does the next version remove such files as its predecessor's.
    with refused("belongs to no version"):
        publish(saved, lambda path: (path / "new.bin").touch())
    assert (saved.parent / "secret").exists()


def test_links_that_lead_outside(saved):
    secret = saved.parent / "secret"
    shutil.copy(saved / "weights.bin", secret)
    (saved / "weights.bin").unlink()
    (saved / "weights.bin").symlink_to(secret)
    with refused(saved / "weights.bin", "leads out of the folder"), open_folder(saved):
        raise AssertionError
    (saved / "weights.bin").unlink()
    shutil.copy(secret, saved / "weights.bin")
    shutil.copytree(saved / "second", saved.parent / "elsewhere")
    shutil.rmtree(saved / "second")
    (saved / "second").symlink_to(saved.parent / "elsewhere")
    with refused("second/adapter.bin", "leads out of the folder"), open_folder(saved):
        raise AssertionError
    # A predecessor's file behind such a link is not removed, and no interrupted version is moved through it.
    (saved / "rest").mkdir()
    publish(saved / "rest", version(0))
    os.rename(saved / "rest", saved / COMMIT)
    (saved.parent / "elsewhere" / "adapter.bin").write_text("precious")
    with refused("second/adapter.bin", "leads out of"):
        publish(saved, version(1))
    assert (saved.parent / "elsewhere" / "adapter.bin").read_text() == "precious"
    shutil.rmtree(saved / COMMIT)
    publish(saved, version(1))
    assert (saved.parent / "elsewhere" / "adapter.bin").exists()
    assert opened(saved) == 1


def test_a_link_in_place_of_a_version_on_its_way(saved):
    """By it, the files of another folder would be moved into this one."""
    precious = saved.parent / "precious"
    publish(precious, version(2))
    before = fingerprint(precious)
    (saved / COMMIT).symlink_to(precious)
    with refused(saved / COMMIT, "is a link to", "remove the link"):
        publish(saved, version(1))
    with refused(saved / COMMIT, "is a link to"), open_folder(saved):
        raise AssertionError
    assert fingerprint(precious) == before
    (saved / COMMIT).unlink()
    assert opened(saved) == 0


@pytest.mark.parametrize("name", ["second", "weights.bin"])
def test_links_in_a_version_on_its_way(saved, name):
    """A folder of it, or a file, may lie elsewhere: there it stays."""
    precious = saved.parent / "precious"
    publish(saved / COMMIT, version(2))
    os.rename(saved / COMMIT / name, precious)
    (saved / COMMIT / name).symlink_to(precious)
    before = fingerprint(precious)
    with refused(saved / COMMIT, "a link"):
        publish(saved, version(1))
    assert fingerprint(precious) == before
    shutil.rmtree(saved / COMMIT)
    assert opened(saved) == 0


def test_links_in_place_of_an_interrupted_save(saved):
    precious = saved.parent / "precious"
    publish(precious, version(2))
    before = fingerprint(precious)
    (saved / f"{TEMPORARY}0123").symlink_to(precious)
    publish(saved, version(1))
    assert opened(saved) == 1 and fingerprint(precious) == before


def test_a_manifest_that_lies_elsewhere(saved):
    os.rename(saved / MANIFEST, saved.parent / "elsewhere.json")
    (saved / MANIFEST).symlink_to(saved.parent / "elsewhere.json")
    with refused(saved / MANIFEST, "leads out of the folder"), open_folder(saved):
        raise AssertionError


def test_links_within_the_folder_and_into_the_cache_of_the_hub(tmp_path):
    snapshot = tmp_path / "models--me--mine" / "snapshots" / "0123abc"
    blobs = tmp_path / "models--me--mine" / "blobs"
    publish(snapshot, version(0))
    blobs.mkdir()
    for name in [*NAMES[0], MANIFEST]:
        os.replace(snapshot / name, blobs / name.replace("/", "-"))
        (snapshot / name).symlink_to(blobs / name.replace("/", "-"))
    assert opened(snapshot) == 0
    os.replace(blobs / "weights.bin", snapshot / "real.bin")
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to("real.bin")
    assert opened(snapshot) == 0


@quick
@given(st.data())
def test_manifest_with_changed_bytes_is_refused_or_true(tmp_path_factory, draw):
    directory = tmp_path_factory.getbasetemp() / "changed"
    publish(directory, version(0))
    content = bytearray((directory / MANIFEST).read_bytes())
    place = draw.draw(st.integers(0, len(content) - 1))
    content[place] = draw.draw(st.integers(0, 255))
    (directory / MANIFEST).write_bytes(content)
    try:
        assert opened(directory) == 0
    except HybridOptError as error:
        assert str(directory) in str(error)
