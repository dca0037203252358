"""A cache of weights that no file of the base holds as they are used."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridopt
from hybridopt import HybridOptError, Placement
from hybridopt.model.loading import materializing
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.storage import unit_files
from hybridopt.model.placement.storage.unit_files import UnitFiles
from hybridopt.model.quantization.owners import parts
from support import placed as tiny
from support.models import batch, tiny_moe

CASES = {"nf4": {"quantization": "nf4"}, "fp4": {"quantization": "fp4"}, "int8": {"quantization": "int8"}}
CASES |= {"cast": {"dtype": "float32"}, "nf4 of a cast": {"quantization": "nf4", "dtype": "float16"}}


def loaded(path, cache, **how):
    return hybridopt.load(path, placement=Placement("disk", slots=2, cache=cache), **how)


def bits(model):
    """Every tensor of a model, codes and constants too, by name."""
    found = dict(model.named_buffers())
    for path, module in model.named_modules():
        for member, p in module._parameters.items():
            if p is not None:
                found |= {f"{path}.{member}.{part}": x for part, x in parts(p, module).items()}
    return found


def assert_same(one, other):
    mine, theirs = bits(one), bits(other)
    assert mine.keys() == theirs.keys()
    for name, x in mine.items():
        y = theirs[name]
        assert type(x) is type(y) and x.dtype == y.dtype and torch.equal(x, y), name
    with torch.no_grad():
        assert torch.equal(one(**batch(one)).logits, other(**batch(other)).logits)


def states(cache):
    return {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in sorted(Path(cache).rglob("*")) if f.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_is_what_resident_weights_are_the_first_time_and_the_next(tmp_path, case, monkeypatch):
    resident = hybridopt.load(tiny.folder(), **CASES[case])
    assert_same(loaded(tiny.folder(), tmp_path, **CASES[case]), resident)
    kept = states(tmp_path)
    assert len(kept) == 2 * tiny.LAYERS
    monkeypatch.setattr(materializing, "quantize_", None)  # nothing is quantized again
    again = loaded(tiny.folder(), tmp_path, **CASES[case])
    assert_same(again, resident)
    assert states(tmp_path) == kept
    traffic = placed(again).traffic
    assert traffic.fetches >= tiny.LAYERS and traffic.read == traffic.fetches * placed(again).units[0].nbytes


def test_every_tensor_of_a_layer_is_a_view_at_64_bytes_of_a_page_of_its_own_file(tmp_path):
    model = loaded(tiny.folder(), tmp_path, quantization="nf4")
    for unit in placed(model).units:
        files = {piece.file for piece in unit.pieces}
        assert len(files) == 1 and len(unit.pieces) == 3 * 7
        for piece in unit.pieces:
            start = piece.tensor.untyped_storage().data_ptr()
            assert (
                start % 4096 == 0 and piece.tensor.data_ptr() == start + piece.extent[0] and piece.extent[0] % 64 == 0
            )
            raw = next(iter(files)).read_bytes()[slice(*piece.extent)]
            assert bytes(piece.tensor.detach().reshape(-1).view(torch.uint8).tolist()) == raw


def test_experts_that_are_merged_while_they_are_read_are_kept(tmp_path):
    base = tmp_path / "base"
    tiny_moe().bfloat16().save_pretrained(base)
    with pytest.raises(HybridOptError, match="is made of several stored tensors.*no file holds it.*cache="):
        hybridopt.load(base, placement="disk")
    for how in ({}, {"quantization": "nf4"}):
        resident = hybridopt.load(base, **how)
        assert_same(loaded(base, tmp_path / "cache", **how), resident)
        assert_same(loaded(base, tmp_path / "cache", **how), resident)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"quantization": "nf4"}, "is quantized while"),
        ({"dtype": "float32"}, "is stored as torch.bfloat16 and used as torch.float32"),
    ],
)
def test_without_a_cache_the_cure_is_named(how, why):
    with pytest.raises(HybridOptError, match=rf"{why}.*placement=Placement\('disk', cache=FOLDER\)"):
        hybridopt.load(tiny.folder(), placement="disk", **how)


def test_float32_weights_between_16_bytes_are_kept_and_single_rows_have_the_same_bits(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny.folder(dtype=torch.float32), base)
    tensors = {n: x.clone() for n, x in load_file(base / "model.safetensors").items()}
    for shift in range(2):  # of the header, by 8 bytes
        save_file(tensors, base / "model.safetensors", {"format": "pt", "note": "x" * 8 * shift})
        with (base / "model.safetensors").open("rb") as file:
            between = int.from_bytes(file.read(8), "little") % 16 == 0  # 8 bytes come before
        model, resident = loaded(base, tmp_path / f"{shift}"), hybridopt.load(base)
        assert len(states(tmp_path / f"{shift}")) == (2 * tiny.LAYERS if between else 0)
        one = torch.tensor([[3]])
        with torch.no_grad():
            assert torch.equal(model(input_ids=one).logits, resident(input_ids=one).logits)


def test_more_layers_are_written_where_only_some_were_there(tmp_path):
    hybridopt.load(tiny.folder(), placement=Placement("disk", resident=2, cache=tmp_path), quantization="nf4")
    some = states(tmp_path)
    assert len(some) == 4
    assert_same(loaded(tiny.folder(), tmp_path, quantization="nf4"), hybridopt.load(tiny.folder(), quantization="nf4"))
    assert len(states(tmp_path)) == 8 and states(tmp_path).items() >= some.items()


@pytest.mark.parametrize("change", ["base", "dtype", "quantization", "skip"])
def test_another_base_or_way_has_files_of_its_own(tmp_path, change):
    base, how = tmp_path / "base", {"quantization": "nf4"}
    shutil.copytree(tiny.folder(), base)
    loaded(base, tmp_path / "cache", **how)
    if change == "base":
        tensors = load_file(base / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
        save_file(tensors, base / "model.safetensors", {"format": "pt"})
    else:
        how[change] = {"dtype": "float16", "quantization": "fp4", "skip": ["model.layers.1"]}[change]
    assert_same(loaded(base, tmp_path / "cache", **how), hybridopt.load(base, **how))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def cut(weights, described):
    os.truncate(weights, 100)


def gone(weights, described):
    weights.unlink()


def no_json(weights, described):
    described.write_text("{")


def foreign(weights, described):
    described.write_text(json.dumps(json.loads(described.read_text()) | {"key": {}}))


def misshapen(weights, described):
    data = json.loads(described.read_text())
    next(iter(data["tensors"].values()))["shape"] = [3]
    described.write_text(json.dumps(data))


def fewer(weights, described):
    data = json.loads(described.read_text())
    kept = {k: v for k, v in data["tensors"].items() if "up_proj" not in k}
    described.write_text(json.dumps(data | {"tensors": kept}))


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory):
    cache = tmp_path_factory.mktemp("kept")
    loaded(tiny.folder(), cache, quantization="fp4")
    return cache


@pytest.mark.parametrize("damage", [cut, gone, no_json, foreign, misshapen, fewer], ids=lambda f: f.__name__)
def test_a_damaged_cache_is_refused_by_name(tmp_path, kept_once, damage):
    shutil.copytree(kept_once, tmp_path / "cache")
    described = sorted((tmp_path / "cache").rglob("*.json"))[1]
    damage(described.with_suffix(".weights"), described)
    with pytest.raises(HybridOptError, match=r"(is damaged|does not hold).*[dD]elete (the|its) folder"):
        loaded(tiny.folder(), tmp_path / "cache", quantization="fp4")


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    real, count = unit_files._put, []

    def full(out, raw):
        count.append(1)
        if len(count) > 100:
            raise OSError(28, "No space left on device")
        return real(out, raw)

    monkeypatch.setattr(unit_files, "_put", full)
    with pytest.raises(HybridOptError, match="cache=.* cannot be written: .*No space left"):
        loaded(tiny.folder(), tmp_path, quantization="nf4")
    there = [f.name for f in states(tmp_path)]
    assert len(there) == 2 and not any(name.startswith(".") for name in there)
    monkeypatch.setattr(unit_files, "_put", real)
    assert_same(loaded(tiny.folder(), tmp_path, quantization="nf4"), hybridopt.load(tiny.folder(), quantization="nf4"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_quantized(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 0, 1000))
    monkeypatch.setattr(materializing, "quantize_", None)
    with pytest.raises(HybridOptError, match=r"going to be written there, and the disk has .* are missing"):
        loaded(tiny.folder(), tmp_path, quantization="nf4")


def test_a_file_in_the_way_and_the_folder_of_the_model_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HybridOptError, match="cannot be made"):
        loaded(tiny.folder(), tmp_path / "file", quantization="nf4")
    with pytest.raises(HybridOptError, match="is the folder of the model, which is never written"):
        loaded(tiny.folder(), tiny.folder(), quantization="nf4")


def test_who_comes_while_another_writes_waits_and_takes_what_is_there(tmp_path):
    began, quantized = threading.Event(), []
    files = UnitFiles(tmp_path, {"base": 1})
    x = torch.arange(10)

    def second():
        other = UnitFiles(tmp_path, {"base": 1})
        began.set()
        with other.alone():
            found = other.find("layer")
            quantized.append(found is None)

    with files.alone():
        thread = threading.Thread(target=second)
        thread.start()
        began.wait()
        assert files.find("layer") is None
        files.write("layer", {"x": x})
    thread.join()
    assert quantized == [False]


def test_stray_files_of_a_process_that_died_are_swept(tmp_path, kept_once):
    shutil.copytree(kept_once, tmp_path / "cache")
    stray = next((tmp_path / "cache").iterdir()) / ".dead"
    stray.touch()
    loaded(tiny.folder(), tmp_path / "cache", quantization="fp4")
    assert not stray.exists()


def test_weights_that_are_trained_do_not_rest_elsewhere():
    with pytest.raises(HybridOptError, match="quantization='int8-trainable' trains the weights of layers"):
        hybridopt.load(tiny.folder(), quantization="int8-trainable", placement="disk")
