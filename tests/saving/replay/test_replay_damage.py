"""Whatever is wrong with a log, a run or a base is one clear error, and the model is as it was."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.saving import manifest
from support.probing import loss_of, net
from support.replays import DELTA, REPLAY, metadata
from support.saved import refused

CONFIG, MANIFEST = "hybridopt_config.json", "hybridopt_manifest.json"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three steps at two rates, on all but the norm, which was changed by hand."""
    model = hybridopt.wrap(net(), policy="mezo", samples=2, norms="frozen")
    optimizer = model.hybrid.optimizer(lr=1e-2)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step // 2)
        optimizer.step(lambda: loss_of(model))
    with torch.no_grad():
        model[1].weight.mul_(2)
    folder = tmp_path_factory.mktemp("original")
    model.hybrid.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


def reseal(folder):
    """A manifest that fits the files, as one who means harm would write it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest.seal(folder)


def rewrite(folder, numbers=None, **changes):
    """The log with other tensors, or another header; ... removes a key."""
    data = metadata(folder) | changes
    header = {"hybridopt_replay": json.dumps({k: v for k, v in data.items() if v is not ...})}
    tensors = load_file(folder / REPLAY) | (numbers or {})
    save_file({k: x.contiguous() for k, x in tensors.items() if x is not None}, folder / REPLAY, header)
    reseal(folder)


def test_the_folder_loads_as_it_is(folder):
    rewrite(folder)
    assert not torch.equal(hybridopt.from_pretrained(net(), folder)[0].weight, net()[0].weight)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": 2}, "format 2.*knows 1"),
        ({"format": ...}, "format"),
        ({"noise": 2}, "noise of version 2.*knows 1"),
        ({"noise": "1"}, "noise"),
        ({"samples": 3}, "samples=3"),
        ({"samples": 0}, "samples=0"),
        ({"samples": True}, "samples"),
        ({"groups": []}, "do not belong to 0 groups|names no parameter"),
        ({"groups": [5, 5]}, "not an object"),
        ({"groups": {}}, "groups"),
        ({"more": 1}, "more"),
    ],
)
def test_headers(folder, changes, text):
    rewrite(folder, **changes)
    assert REPLAY in refused(net(), folder, text)


def spoil_seed(group):
    group["seed"] = -1


def spoil_treatment(group):
    group["treatment"]["free"] = {"part": "rules.adamw"}


def spoil_source(group):
    group["treatment"]["source"] = {"part": "sources.subzero"}


def spoil_samples(group):
    group["treatment"]["source"]["samples"] = 1


def spoil_option(group):
    group["treatment"]["source"]["eps"] = "x"


def spoil_part(group):
    group["treatment"]["source"]["part"] = "os.system"


def spoil_custom(group):
    group["treatment"]["source"] = {"custom": "function f"}


def spoil_mark(group):
    next(iter(group["traces"].values())).pop()


def spoil_shape(group):
    next(iter(group["traces"].values()))[0] = [-1]


def spoil_seen(group):
    next(iter(group["traces"].values()))[1] = [7]


def spoil_dtype(group):
    next(iter(group["traces"].values()))[2] = "int8"


def spoil_name(group):
    group["traces"]["nowhere"] = group["traces"].pop("0.weight")


def spoil_others(group):
    group["others"] = {"x": -1}


SPOILED = [(f, t) for f, t in (
    (spoil_seed, "seed=-1"),
    (spoil_treatment, "rule|keeps state"),
    (spoil_source, "no weights follow"),
    (spoil_samples, "no weights follow from 2 slopes"),
    (spoil_option, "eps='x'"),
    (spoil_part, "os.system"),
    (spoil_custom, "function f"),
    (spoil_mark, "must be .shape, seen as, dtype, base, result."),
    (spoil_shape, "whole number"),
    (spoil_seen, "cannot be seen as"),
    (spoil_dtype, "int8"),
    (spoil_name, "do not agree about"),
    (spoil_others, "size of 'x'=-1"),
)]  # fmt: skip


@pytest.mark.parametrize(("spoil", "text"), SPOILED)
def test_groups(folder, spoil, text):
    groups = metadata(folder)["groups"]
    spoil(groups[0])
    rewrite(folder, groups=groups)
    refused(net(), folder, text)


def at(x, place, value):
    x = x.clone()
    x[place] = value
    return x


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("slopes", lambda x: at(x, (1, 0), x[1, 0] * 1.01), "is not what training had made.*edited"),
        ("slopes", lambda x: at(x, 1, NAN), "is not what training had made"),
        ("slopes", lambda x: at(x, (1, 0), NAN), "no numbers"),
        ("slopes", lambda x: at(x, (1, 0), INF), "infinite"),
        ("slopes", lambda x: x[:2], "counts add up to 3 steps, slopes are of 2"),
        ("slopes", lambda x: x[:, :1], "samples=2"),
        ("slopes", lambda x: x.double(), "matrix of torch.float32"),
        ("slopes", lambda x: x.flatten(), "matrix"),
        ("slopes", lambda x: None, "must hold slopes, rates, counts"),
        ("rates", lambda x: at(x, (0, 0), NAN), "no number"),
        ("rates", lambda x: at(x, (0, 0), -1.0), "negative"),
        ("rates", lambda x: at(x, (0, 1), 0.5), "is not what training had made"),
        ("rates", lambda x: x[:1], "do not belong to"),
        ("rates", lambda x: x[:, :-1], "do not belong to"),
        ("counts", lambda x: x + 1, "counts add up to"),
        ("counts", lambda x: at(at(x, 0, 4), 1, -1), "counts add up to"),
        ("counts", lambda x: x.long(), "do not belong to"),
    ],
)
def test_numbers(folder, name, change, text):
    rewrite(folder, {name: change(load_file(folder / REPLAY)[name])})
    refused(net(), folder, text)


def test_truncated_and_foreign_logs(folder):
    whole = (folder / REPLAY).read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-4], b"", b"\xff" * 64, whole[8:]):
        (folder / REPLAY).write_bytes(data)
        refused(net(), folder, f"{REPLAY} has .* bytes, the manifest says|damaged")
        reseal(folder)
        refused(net(), folder, REPLAY)
    shutil.copy(folder / DELTA, folder / REPLAY)
    reseal(folder)
    refused(net(), folder, "safetensors file of something else")


def test_a_log_that_is_missing_or_was_not_asked_for(folder):
    (folder / REPLAY).unlink()
    refused(net(), folder, REPLAY)
    reseal(folder)
    refused(net(), folder, "do not agree about '0.bias'")


def test_a_tensor_in_both_files(folder):
    save_file(load_file(folder / DELTA) | {"0.bias": torch.ones(10)}, folder / DELTA)
    reseal(folder)
    refused(net(), folder, "rebuilds '0.bias', which is in hybridopt_delta")


def test_other_bases(folder):
    other = net()
    with torch.no_grad():
        other[3].weight[0, 0] += 1e-6
    refused(other, folder, "'3.weight' has other values")
    refused(net(torch.bfloat16), folder, "trained in (torch.)?float32")
    refused(torch.nn.Sequential(torch.nn.Linear(6, 10)), folder, "not the base model")


def test_a_base_that_only_the_log_knows(folder):
    """Older folders keep no checksums that can be compared."""
    config = json.loads((folder / CONFIG).read_text())
    config.pop("checksums")
    (folder / CONFIG).write_text(json.dumps(config))
    reseal(folder)
    other = net()
    with torch.no_grad():
        other[3].weight[0, 0] += 1e-6
    with pytest.warns(HybridOptWarning, match="older hybridopt"):
        refused(other, folder, "'3.weight' has other values in this base")
        refused(net().double(), folder, "trained in torch.float32|float64")
        hybridopt.from_pretrained(net(), folder)


def test_checksums_of_another_version(folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"checksums": 3}))
    reseal(folder)
    refused(net(), folder, "checksums=3")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"slopes": torch.zeros(1, 5)}, "slopes of shape"),
        ({"slopes": torch.zeros(2, 1)}, "counts add up to 1 steps"),
        ({"rates": torch.full((1, 4), NAN, dtype=torch.float64)}, "no number"),
        ({"counts": torch.tensor([7], dtype=torch.int32)}, "counts add up to 7"),
        ({"origin": ...}, "is no log"),
    ],
)
def test_a_state_with_a_bad_log_is_refused_before_anything_changes(change, text):
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-2)
    optimizer.step(lambda: loss_of(model))
    state = copy.deepcopy(optimizer.state_dict())
    log = state["zeroth_order"] | change
    state["zeroth_order"] = {k: v for k, v in log.items() if v is not ...}
    other = hybridopt.wrap(net(), policy="mezo").hybrid.optimizer(lr=3e-2)
    with pytest.raises(HybridOptError, match=text):
        other.load_state_dict(state)
    assert len(other.log) == 0 and other.param_groups[0]["lr"] == 3e-2 and other.param_groups[0]["step"] == 0
