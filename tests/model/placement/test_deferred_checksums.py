"""Checksums of placed weights: read once, while they are fetched; and no change of a weight is lost."""

import copy
import json
import pickle

import pytest
import torch

import hybridopt
from hybridopt import HybridOptError, Placement
from hybridopt.model import base_record, checksums, deferred_checksums
from hybridopt.model.checksums import checksum
from hybridopt.model.deferred_checksums import LaterChecksum, number
from hybridopt.model.placement.placed import placed
from support import placed as tiny

WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def summed(monkeypatch):
    """Shapes of the tensors whose values were read for checksums."""
    found = []

    def noted(tensor):
        found.append(tuple(tensor.shape))
        return checksum(tensor)

    monkeypatch.setattr(deferred_checksums, "checksum", noted)
    return found


def adapted(scheme=None, cache=None):
    how = {} if cache is None else {"cache": cache}
    return tiny.adapted(tiny.model_at("mapped", scheme, **how), tiny.Training(scheme))


def one_step(model):
    optimizer = model.hybrid.optimizer(lr=1e-2)
    model(**tiny.batch(model)).loss.backward()
    optimizer.step()


def saved_base(folder):
    return json.loads((folder / "hybridopt_config.json").read_text())["base"]


def test_weights_are_summed_once_while_they_are_fetched(tmp_path, summed):
    model = adapted()
    placed_shapes = {tuple(x.tensor.shape) for unit in placed(model).units for x in unit.pieces}
    assert summed and not placed_shapes & set(summed)  # wrapping reads none of them
    one_step(model)
    assert len([shape for shape in summed if shape in placed_shapes]) == 7 * tiny.LAYERS
    summed.clear()
    model.hybrid.save_pretrained(tmp_path)
    assert not placed_shapes & set(summed)
    resident = hybridopt.wrap(tiny.model_at("resident"), peft_config=tiny.lora())
    assert saved_base(tmp_path) == {n: list(mark) for n, mark in resident.hybrid.base.items()}
    again = hybridopt.from_pretrained(tiny.model_at("mapped"), tmp_path)
    assert torch.equal(again(**tiny.batch(again)).logits, model.eval()(**tiny.batch(model)).logits)


def test_what_nobody_has_fetched_is_summed_when_it_is_saved(tmp_path, summed):
    model = adapted()
    summed.clear()
    model.hybrid.save_pretrained(tmp_path)
    assert len(summed) >= 7 * tiny.LAYERS
    assert saved_base(tmp_path)[WEIGHT][2] == checksum(tiny.model_at("resident").get_parameter(WEIGHT))


def test_codes_of_a_cache_are_never_summed_again(tmp_path, summed):
    adapted("nf4", tmp_path / "cache")
    summed.clear()
    model = adapted("nf4", tmp_path / "cache")
    one_step(model)
    model.hybrid.save_pretrained(tmp_path / "saved")
    large = [shape for shape in summed if len(shape) == 2 and shape[0] > 1000]
    assert large == []
    resident = hybridopt.wrap(tiny.model_at("resident", "nf4"), peft_config=tiny.lora())
    assert saved_base(tmp_path / "saved") == {n: list(mark) for n, mark in resident.hybrid.base.items()}


def test_another_base_is_refused(tmp_path):
    model = adapted()
    model.hybrid.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "hybridopt_config.json").read_text())
    there = base_record.record(tiny.model_at("mapped"))
    assert base_record.first_difference(there, config["base"]) is None
    config["base"][WEIGHT][2] += 1
    assert base_record.first_difference(there, config["base"]) == f"{WEIGHT!r} has other values"


@pytest.mark.parametrize("used", [False, True])
def test_a_weight_that_was_written_at_rest_is_saved_or_refused_never_lost(used):
    model = tiny.model_at("mapped")
    model = hybridopt.wrap(model, peft_config=tiny.lora())
    if used:  # pages that nobody needs are given back at the next fetch
        model(**tiny.batch(model))
        placed(model).rest()
    weight = model.get_submodule("base_model.model.model.layers.3.mlp.up_proj.base_layer").weight
    with torch.no_grad():
        weight[0, 0] += 1
    name = "base_model.model.model.layers.3.mlp.up_proj.base_layer.weight"
    assert torch.equal(model.hybrid.changed_tensors()[name], weight)
    with pytest.raises(HybridOptError, match="a weight of '.*layers.3' was written to while it rests on disk"):
        model(**tiny.batch(model))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_of_a_record_hold_numbers(way):
    model = tiny.model_at("mapped")
    record = base_record.record(model)
    assert isinstance(record[WEIGHT][2], LaterChecksum)
    copied = way(record)
    assert all(type(mark[2]) is int for mark in copied.values()) and copied == record
    assert copied[WEIGHT][2] == checksum(model.get_parameter(WEIGHT)) == number(record[WEIGHT][2])


def test_a_later_checksum_keeps_no_model_alive():
    model = tiny.model_at("mapped")
    record = base_record.record(model)
    count = len(deferred_checksums._LATER)
    del model
    import gc

    gc.collect()
    assert len(deferred_checksums._LATER) <= count - 7 * tiny.LAYERS
    assert number(record[WEIGHT][2]) == checksum(tiny.model_at("resident").get_parameter(WEIGHT))


def test_bytes_of_a_cache_that_rotted_are_told_when_they_are_fetched(tmp_path):
    hybridopt.load(tiny.folder(), quantization="fp4", placement=Placement("disk", cache=tmp_path))
    file = sorted(tmp_path.rglob("*.weights"))[2]
    raw = bytearray(file.read_bytes())
    raw[100] ^= 1
    file.write_bytes(raw)
    model = hybridopt.load(tiny.folder(), quantization="fp4", placement=Placement("disk", cache=tmp_path))
    with pytest.raises(HybridOptError, match=r"layers\.2.*is damaged: it has other bytes than were written. Delete"):
        model(**tiny.batch(model))


def test_a_checksum_is_of_values_not_of_when_it_was_taken():
    assert checksums.checksum(torch.arange(5)) == number(checksums.checksum(torch.arange(5)))
