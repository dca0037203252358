"""Tensor files: the same bits come back, and no file, however broken, does more than raise HybridOptError."""

import json
import os
import resource
import struct
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import tensors
from support.children import fork, status

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
DTYPES = [
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16,
]  # fmt: skip
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@st.composite
def dense(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    data = torch.randint(
        0, 256, (*shape, dtype.itemsize), generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    data = data.remainder(2) if dtype is torch.bool else data
    tensor = data.to(torch.uint8).view(dtype).reshape(shape)
    return tensor.transpose(0, -1) if tensor.ndim > 1 and draw(st.booleans()) else tensor


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@quick
@given(st.dictionaries(NAMES, dense(), max_size=6), st.none() | st.dictionaries(NAMES, NAMES, max_size=3))
def test_round_trip_to_the_bit(tmp_path_factory, data, metadata):
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    tensors.save(data, path, metadata)
    expected = {name: bits(tensor) for name, tensor in data.items()}
    assert {name: bits(tensor) for name, tensor in tensors.load(path).items()} == expected
    # The library itself agrees, with the file mapped: the format is right and all offsets are aligned.
    assert {name: bits(tensor) for name, tensor in load_file(path).items()} == expected
    assert tensors.names(path) == sorted(data)
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == (metadata or {})


def test_special_values_keep_their_bits(tmp_path):
    data = {"nan": torch.tensor([0x7FC00001, 0x7F800001, -1, -(2**31)], dtype=torch.int32).view(torch.float32)}
    data |= {
        "0d": torch.tensor(3.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 7),
        "big": torch.tensor([2**63 - 1]),
    }
    tensors.save(data, tmp_path / "x.safetensors")
    for name, tensor in tensors.load(tmp_path / "x.safetensors").items():
        assert bits(tensor) == bits(data[name]), name


def test_shared_and_strided_and_lazy_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    data = {"a": base, "same": base, "row": base[1], "t": base.t(), "one": base[:1].expand(3, 4), "step": base[:, ::2]}
    data |= {"conj": torch.tensor([1 + 2j, 3j]).conj(), "neg": torch.tensor([1 + 2j]).conj().imag}
    data["parameter"] = torch.nn.Parameter(base + 1)
    tensors.save(data, tmp_path / "x.safetensors")
    loaded = tensors.load(tmp_path / "x.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in data.items())
    assert not loaded["parameter"].requires_grad
    loaded["a"].zero_()
    assert torch.equal(loaded["same"], base)


def test_only_one_tensor_is_copied_at_a_time(tmp_path):
    live, most = set(), []

    class Far(torch.Tensor):
        """A tensor as if on another device, that knows which of its copies are still held."""

        def detach(self):
            return self

        def cpu(self):
            array = self.as_subclass(torch.Tensor).numpy().copy()
            live.add(id(array))
            most.append(len(live))
            weakref.finalize(array, live.discard, id(array))
            return torch.from_numpy(array)

    far = {str(index): torch.full((1000,), float(index)).as_subclass(Far) for index in range(5)}
    tensors.save(far, tmp_path / "x.safetensors")
    assert (most, live) == ([1] * 5, set())
    assert tensors.load(tmp_path / "x.safetensors")["4"].tolist() == [4.0] * 1000


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path):
    data = {str(dtype): torch.zeros(3, dtype=dtype) for dtype in DTYPES}
    tensors.save(data, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert all(entries[name]["data_offsets"][0] % tensor.itemsize == 0 for name, tensor in data.items())


class Wrapper(torch.Tensor):
    """Stands for DTensor and for quantized weights, whose data lies in other tensors."""

    def __tensor_flatten__(self):
        return [], None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"w": torch.ones(2).as_subclass(Wrapper)}, "'w' .*full_tensor"),
        ({"w": torch.eye(2).to_sparse()}, "'w' .*torch.sparse_coo.*to_dense"),
        ({"w": torch.empty(2, device="meta")}, "'w' .*meta"),
        ({"w": torch.zeros(2, dtype=torch.complex128)}, "'w' cannot be saved as complex128"),
        ({"w": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, r"view\(torch.uint8\)"),
        ({"__metadata__": torch.ones(2)}, "reserved"),
        ({"\ud800": torch.ones(2)}, "the tensor name"),
        ({7: torch.ones(2)}, "the tensor name 7"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(tmp_path, data, words):
    path = tmp_path / "x.safetensors"
    tensors.save({"old": torch.ones(3)}, path)
    with pytest.raises(HybridOptError, match=words) as caught:
        tensors.save({"good": torch.ones(2), **data}, path)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert tensors.names(path) == ["old"]


def test_bad_metadata(tmp_path):
    for metadata in ({"a": 1}, {1: "a"}, {"a": "\ud800"}):
        with pytest.raises(HybridOptError, match="metadata"):
            tensors.save({}, tmp_path / "x.safetensors", metadata)


def test_saving_over_the_file_one_holds(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.save({"a": torch.arange(50_000.0)}, path)
    mapped = load_file(path)
    tensors.save({"a": mapped["a"] + 1, "b": mapped["a"]}, path)
    assert torch.equal(mapped["a"], torch.arange(50_000.0))
    assert torch.equal(tensors.load(path)["b"], torch.arange(50_000.0))


def test_targets_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(__file__)
    for target in [tmp_path, tmp_path / "pipe", tmp_path / "dangling", tmp_path / "link", "/dev/null"]:
        before = os.lstat(target)
        with pytest.raises(HybridOptError, match="not a regular file"):
            tensors.save({"a": torch.ones(2)}, target)
        assert os.lstat(target).st_ino == before.st_ino
    for target in [tmp_path / "none" / "x.safetensors", Path(__file__) / "x.safetensors", tmp_path / ("x" * 300)]:
        with pytest.raises(HybridOptError, match="cannot be written|name too long"):
            tensors.save({"a": torch.ones(2)}, target)


def test_full_disk(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.save({"a": torch.ones(10)}, path)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(HybridOptError, match="File too large"):
            tensors.save({"a": torch.ones(100_000)}, path)

    assert status(fork(fill)) == 0
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert tensors.load(path)["a"].tolist() == [1.0] * 10


def test_umask_is_honoured(tmp_path):
    old = os.umask(0o027)
    try:
        tensors.save({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.save({"a": torch.arange(100_000.0)}, path)
    loaded = tensors.load(path)
    assert str(path) not in open("/proc/self/maps").read()
    os.truncate(path, 10)
    assert torch.equal(loaded["a"], torch.arange(100_000.0))


def test_truncation_at_every_length(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.save({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int8)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for read in (tensors.load, tensors.names):
            with pytest.raises(HybridOptError, match="the trained weights in .*x.safetensors"):
                read(path, "the trained weights")
    path.write_bytes(whole + b"\0")
    with pytest.raises(HybridOptError):
        tensors.load(path)


def file_of(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype="F32", shape=(1,), start=0, stop=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HOSTILE = {
    "no header": b"",
    "length beyond the file": struct.pack("<Q", 2**63) + b"{}",
    "no json": file_of(b"[[["),
    "no utf-8": file_of(b'{"\xff": 1}'),
    "array": file_of([]),
    "two tensors, one place": file_of({"a": entry(), "b": entry()}, b"\0" * 4),
    "hole": file_of({"a": entry(), "b": entry(start=8, stop=12)}, b"\0" * 12),
    "reversed": file_of({"a": entry(start=4, stop=0)}, b"\0" * 4),
    "negative": file_of({"a": entry(start=-4, stop=0)}, b"\0" * 4),
    "shape and size differ": file_of({"a": entry(shape=[2])}, b"\0" * 4),
    "product overflows": file_of({"a": entry(shape=[2**62, 8], stop=0)}),
    "strides overflow": file_of({"a": entry(shape=[0, 2**62, 2**62], stop=0)}),
    "size beyond int64": file_of({"a": entry(shape=[2**63, 0], stop=0)}),
    "unknown dtype": file_of({"a": entry("Q8")}, b"\0" * 4),
    "dtype torch lacks": file_of({"a": entry("F6_E2M3", [4], 0, 3)}, b"\0" * 3),
    "half bytes": file_of({"a": entry("F4", [2], 0, 1)}, b"\0"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(HybridOptError, match="the trained weights in .*x.safetensors") as caught:
        tensors.load(path, "the trained weights")
    assert len(str(caught.value)) < 1000


@quick
@given(st.data())
def test_changed_bytes_are_refused_or_read(tmp_path_factory, draw):
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    tensors.save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, path, {"k": "v"})
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    path.write_bytes(content)
    for read in (tensors.load, tensors.names):
        try:
            read(path)
        except HybridOptError as error:
            assert str(path) in str(error)


def test_odd_names_are_only_names(tmp_path):
    odd = ["../../outside", "/etc/passwd", "", "a\0b", " lead", "\n"]
    before = sorted(tmp_path.parent.rglob("*"))
    tensors.save(dict.fromkeys(odd, torch.ones(1)), tmp_path / "x.safetensors")
    assert sorted(tensors.load(tmp_path / "x.safetensors")) == tensors.names(tmp_path / "x.safetensors") == sorted(odd)
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, tmp_path / "x.safetensors"])


def test_reading_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in [tmp_path, tmp_path / "pipe", tmp_path / "none", "/dev/zero", "a\0b", tmp_path / ("x" * 300)]:
        for read in (tensors.load, tensors.names):
            with pytest.raises(HybridOptError, match="the trained weights in"):
                read(path, "the trained weights")
