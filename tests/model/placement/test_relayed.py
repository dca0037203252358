"""Layers on disk for a device that computes, with the CPU in the place of that device."""

import os
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt.core.contracts import Piece, PlacedUnit, Traffic
from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.model.placement.backends.mapped import Mapped
from hybridopt.model.placement.backends.relayed import Relayed
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.lanes.host import HostLane
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.placing import place_
from hybridopt.model.placement.storage import direct_io
from hybridopt.model.placement.storage.arena import Arena, Layout
from hybridopt.model.placement.storage.direct_io import DirectFile, read
from hybridopt.model.placement.storage.ranges import BLOCK, GAP, Range, Reading, most
from support.placed import CPU, Late, Training, adapted, differences, folder, model_at, on_disk, run, train


@cache
def resident(scheme=None):
    return run("resident", Training(scheme), 2)


@pytest.mark.parametrize("ahead", [0, 1])
def test_training_from_disk_is_training_to_the_last_bit(ahead):
    model = model_at("resident")
    found = on_disk(model, folder(), slots=2, ahead=ahead)
    backend = found.streamer.backend
    size = found.units[0].nbytes + (len(found.units[0].pieces) + 1) * BLOCK  # wherever each of them lies
    assert backend.held == backend.pinned == 2 * backend._relays[0][0].size <= 2 * size
    assert not differences(train(adapted(model), 2), resident())
    found.rest()
    assert found.traffic.read == found.traffic.moved == found.traffic.fetches * found.units[0].nbytes
    weight = model.get_parameter("model.layers.1.mlp.up_proj.weight")
    assert weight.untyped_storage().nbytes() == os.path.getsize(folder() / "model.safetensors")  # a view of it
    assert all(side.memory.untyped_storage().nbytes() == 0 for side in backend._sides.values())


def test_files_of_any_order_and_gaps_are_read_right(tmp_path):
    """Two files, foreign tensors between, odd beginnings, and the end of a file within a block."""
    sizes = {"a": 100, "foreign": 7, "b": 5000, "c": 64, "far": GAP + 1, "d": 3000}
    tensors = {name: torch.randint(0, 255, (n,), dtype=torch.uint8) for name, n in sizes.items()}
    more = {"e": torch.randn(33, 3), "f": torch.randn(5)}
    unit = PlacedUnit("unit", nn.Identity(), 0)
    for number, group in enumerate((tensors, more)):
        file = tmp_path / f"{number}.safetensors"
        write(file, group)
        at = 0
        for name, x in group.items():
            if name not in ("foreign", "far"):
                unit.pieces.append(Piece(name, name, torch.zeros_like(x), file, (at, at + x.nbytes)))
            at += x.nbytes
    unit.pieces.reverse()
    backend = Late(CPU, Traffic(), Placement("disk"))
    backend.adopt(unit)
    assert [r.start for r in backend._readings[unit].ranges] == [0, 2 * BLOCK, 0]
    for _ in range(3):
        bring(backend, unit)
        for piece in unit.pieces:
            assert torch.equal(piece.tensor, (tensors | more)[piece.name]), piece.name
            assert piece.tensor.data_ptr() % 64 == 0
        backend.rest(unit)
        assert all(torch.equal(piece.tensor, (tensors | more)[piece.name]) for piece in unit.pieces)


def test_tensors_that_follow_in_file_and_memory_are_copied_at_once(tmp_path):
    pieces = [
        Piece(name, name, torch.zeros(n, dtype=torch.uint8), tmp_path, (start, start + n))
        for name, start, n in (("a", 1000, 512), ("b", 1512, 256), ("c", 1768, 100), ("d", 1868, 4))
    ]
    reading = Reading(pieces, Layout([piece.tensor for piece in pieces]))
    assert reading.ranges == [Range(tmp_path, 0, 4096, 1872, 0)]
    assert reading.parts == [(1000, 0, 868), (1868, 1024, 4)]


@pytest.mark.parametrize("gap", [0, 7, GAP, GAP + 1, 8 * BLOCK, 15 * BLOCK])
@pytest.mark.parametrize("size", [64, BLOCK, 5 * BLOCK + 2])
def test_the_memory_that_is_read_into_is_large_enough_whatever_lies_between(tmp_path, size, gap):
    """As the norms of wide layers do, and those in float32."""
    for first in (0, 64, BLOCK - 2):
        places = [first + number * (size + gap) for number in range(7)]
        x = torch.empty(size // 2, dtype=torch.bfloat16)
        unit = PlacedUnit("unit", nn.Identity(), 0)
        unit.pieces = [Piece(f"{at}", f"{at}", x, tmp_path, (at, at + size)) for at in places]
        assert Reading(unit.pieces, Layout([x] * 7)).size <= most(unit)


@pytest.mark.parametrize("chunk", [BLOCK, 8 * BLOCK])
def test_ranges_are_read_whole_by_several_readers(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(direct_io, "CHUNK", chunk)
    file = tmp_path / "file"
    content = os.urandom(5 * BLOCK + 17)
    file.write_bytes(content)
    memory = Arena(6 * BLOCK, HostLane())
    opened = DirectFile(file)
    read({file: opened}, [Range(file, BLOCK, 5 * BLOCK, 4 * BLOCK + 17, 0)], memoryview(memory.map))
    opened.close()
    assert bytes(memory.bytes[: 4 * BLOCK + 17].tolist()) == content[BLOCK:]


def test_a_file_that_is_cut_is_told_of(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2 * BLOCK))
    opened = DirectFile(file)
    os.truncate(file, BLOCK + 5)
    with pytest.raises(HybridOptError, match="ends 91 bytes before"):
        opened.read(0, memoryview(Arena(2 * BLOCK, HostLane()).map), BLOCK + 96)


def test_files_are_closed_with_who_reads_them(tmp_path):
    (tmp_path / "file").write_bytes(bytes(BLOCK))
    numbers = [DirectFile(tmp_path / "file")._file]
    file = DirectFile(tmp_path / "file")
    numbers.append(file._file)
    file.close()
    file.close()
    for number in numbers:
        with pytest.raises(OSError):
            os.fstat(number)


def test_a_file_system_without_direct_reads_is_read_through_its_cache(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(BLOCK))
    opened, preadv = os.open, os.preadv

    def refuse(path, flags, *rest):
        if flags & direct_io.DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, *rest)

    def refuse_reading(fd, *rest):
        if fcntl(fd) & direct_io.DIRECT:
            raise OSError(22, "Invalid argument")
        return preadv(fd, *rest)

    for name, other in (("open", refuse), ("preadv", refuse_reading)):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, other)
            with pytest.warns(HybridOptWarning, match=r"cannot be read past the system's cache.*ext4"):
                slow = DirectFile(file)
            memory = Arena(BLOCK, HostLane())
            slow.read(0, memoryview(memory.map), BLOCK)
            slow.close()
        assert not slow.direct and bytes(memory.bytes.tolist()) == file.read_bytes()


def test_a_changed_file_and_an_error_of_the_drive_come_to_who_computes(tmp_path, monkeypatch):
    path = Path(tmp_path)
    for file in folder().iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    model = model_at("resident", path=path)
    on_disk(model, path, slots=2)
    model = adapted(model)
    train(model, 1)

    def broken(*args):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", broken)
        with pytest.raises(HybridOptError, match="cannot be fetched .* Input/output"):
            train(model, 1)
    train(model, 1)  # it goes on where the drive does
    os.utime(path / "model.safetensors", (1, 1))
    with pytest.raises(HybridOptError, match="was changed while"):
        train(model, 1)


@pytest.fixture
def accelerated(monkeypatch):
    """Let the CPU be served as a GPU is, so that `load` and `wrap` do for it what they do for that."""
    monkeypatch.setattr(Relayed, "serves", staticmethod(lambda base, device: base == "disk"))
    monkeypatch.setattr(Mapped, "serves", staticmethod(lambda base, device: False))
    monkeypatch.setattr(Staged, "serves", staticmethod(lambda base, device: base == "host"))


@pytest.mark.parametrize(("base", "scheme"), [("host", "nf4"), ("disk", "nf4"), ("disk", "int8")])
def test_load_quantizes_layer_by_layer_and_lets_each_rest(accelerated, tmp_path, base, scheme):
    where = Placement(base, slots=2, cache=tmp_path / "cache" if base == "disk" else None)
    model = hybridopt.load(folder(), quantization=scheme, placement=where)
    backend = placed(model).streamer.backend
    assert type(backend) is (Relayed if base == "disk" else Staged)
    assert not differences(train(adapted(model), 2), resident(scheme))
    assert backend.held == backend.pinned == backend.holds(placed(model).units) > 0


def test_no_memory_is_read_into_before_it_was_copied_from(tmp_path):
    file, backend, found = tmp_path / "weights", Late(CPU, Traffic(), Placement("disk")), []
    tensors = {str(number): torch.full((2048,), float(number)) for number in range(3)}  # of two blocks each
    write(file, tensors)
    for number in range(3):
        unit = PlacedUnit(str(number), nn.Identity(), number)
        unit.pieces = [Piece("x", "x", torch.zeros(2048), file, (8192 * number, 8192 * number + 8192))]
        backend.adopt(unit)
        found.append(unit)
    for unit in found:  # more of them on their way than there are memories
        backend.open(unit)
        backend.fetch(unit)
    for unit in found:
        backend.bind(unit)
        assert torch.equal(unit.pieces[0].tensor, tensors[unit.name])


def test_what_is_trained_rests_in_a_working_file_and_not_in_that_of_the_user(tmp_path):
    file = tmp_path / "weights"
    tensors = {name: torch.randn(50, 3) for name in "abc"}
    write(file, tensors)
    before = file.read_bytes()
    unit = PlacedUnit("unit", nn.Identity(), 0)
    unit.pieces = [Piece(n, n, torch.zeros(50, 3), file, (600 * i, 600 * i + 600)) for i, n in enumerate("abc")]
    backend = Late(CPU, Traffic(), Placement("disk", cache=tmp_path / "cache"))
    backend.adopt(unit)
    for step in range(3):
        bring(backend, unit)
        changed = unit.pieces[step % 2]
        changed.tensor.mul_(2)
        tensors[changed.name] = tensors[changed.name] * 2
        backend.keep(unit, [changed])
        backend.rest(unit)
        assert all(torch.equal(piece.tensor, tensors[piece.name]) for piece in unit.pieces)
    bring(backend, unit)
    assert all(torch.equal(piece.tensor, tensors[piece.name]) for piece in unit.pieces)
    assert file.read_bytes() == before and backend._traffic.written == backend._traffic.returned == 3 * 600


def test_trained_weights_need_a_folder(tmp_path):
    write(tmp_path / "weights", {"a": torch.zeros(8)})
    unit = PlacedUnit("unit", nn.Identity(), 0)
    unit.pieces = [Piece("a", "a", torch.zeros(8), tmp_path / "weights", (0, 32))]
    backend = Late(CPU, Traffic(), Placement("disk"))
    backend.adopt(unit)
    bring(backend, unit)
    with pytest.raises(HybridOptError, match="cache=FOLDER"):
        backend.keep(unit, unit.pieces)


def test_weights_that_no_file_holds_are_refused():
    model = model_at("resident")
    with pytest.raises(HybridOptError, match=r"no file holds .*cache=.*placement='host'"):
        place_(model, Placement("disk"), CPU, {}, backend=Relayed)


def test_the_lock_of_pages_is_given_back_with_the_last_unit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_at("resident")
        found = on_disk(model, folder())
    lane = found.streamer.backend.lane
    assert len(lane.locked) == 2
    found.end()
    assert not lane.locked


def bring(backend, unit):
    backend.open(unit)
    backend.fetch(unit)
    backend.bind(unit)


def fcntl(fd):
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL)


def write(file, tensors):
    """A file of bare tensors, one after the other."""
    file.write_bytes(b"".join(x.numpy().tobytes() for x in tensors.values()))


@pytest.mark.parametrize("how", ["at rest", "at rest, as data", "near", "replaced", "replaced near"])
def test_what_somebody_else_writes_is_refused_as_no_file_holds_it(tmp_path, how):
    write(tmp_path / "weights", {"a": torch.ones(50, 3)})
    unit = PlacedUnit("unit", nn.Identity(), 0)
    unit.pieces = [Piece("a", "a", nn.Parameter(torch.zeros(50, 3)), tmp_path / "weights", (0, 600))]
    backend = Late(CPU, Traffic(), Placement("disk"))
    backend.adopt(unit)
    x = unit.pieces[0].tensor
    if "near" in how:
        bring(backend, unit)
    with torch.no_grad():
        if "replaced" in how:
            x.data = torch.ones(50, 3)
        else:
            (x.data if "data" in how else x).mul_(2)
    with pytest.raises(HybridOptError, match="written to while it rests on disk"):
        backend.rest(unit) if "near" in how else bring(backend, unit)
