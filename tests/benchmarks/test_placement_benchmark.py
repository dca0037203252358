"""The benchmark of placement: what it measures of a small model, and what it calls missed."""

import json
import mmap
import time

import pytest
import torch

import hybridopt
from benchmarks.placement import __main__ as command
from benchmarks.placement import arms, disk, folder, process
from benchmarks.placement.bounds import bounds
from benchmarks.placement.training import Arm

SMALL = folder.SHAPES["small"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A folder with the small model."""
    path = tmp_path_factory.mktemp("placement") / "model"
    folder.write(path, SMALL)
    return path


@pytest.fixture
def unsettled(monkeypatch):
    """Libraries have loaded what they load: nothing is run for that."""
    monkeypatch.setattr(arms, "settled", lambda small, arm: None)


def test_the_folder_is_a_model_of_that_size(path):
    model = hybridopt.load(path)
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == SMALL.shapes
    total = sum(p.nbytes for p in model.parameters())
    assert total == SMALL.layers * folder.layer_bytes(SMALL) + folder.other_bytes(SMALL)
    layers = model.model.layers
    assert not torch.equal(layers[0].mlp.up_proj.weight, layers[1].mlp.up_proj.weight)


def test_the_large_shape_is_what_is_asked_for():
    shape = folder.SHAPES["1.2gb"]
    assert (shape.layers, folder.layer_bytes(shape)) == (24, 50_331_648)
    assert 1.2e9 < 24 * folder.layer_bytes(shape) + folder.other_bytes(shape) < 1.3e9


def test_pairs_train_alike_and_read_what_the_slots_do_not_hold(path, unsettled):
    found = arms.pairs(Arm(path, slots=2, tokens=4), path, 1)
    assert found["same_losses"] and len(found["seconds"]) == 1
    assert found["read"] == pytest.approx(2 * (4 - 2) * folder.layer_bytes(SMALL), rel=0.1)  # whole pages


def test_visits_count_every_layer_of_every_pass(path):
    found = arms.visits(Arm(path, slots=4, tokens=4), path, 1)
    assert found["visits"] == 8 and found["calls"] >= 12 and 0 < found["spent"] < sum(found["seconds"])


def test_reads_are_told_by_part(path, unsettled):
    found = arms.reads(Arm(path, slots=2, tokens=4), path, 1)["read_bytes"]
    assert found.keys() == {"load", "wrap", "first step", "save"} and all(size >= 0 for size in found.values())


def test_a_watch_sees_memory_that_is_given_back():
    before = process.memory()
    with process.Watch() as watch:
        kept = mmap.mmap(-1, 32 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a tensor might take what is free
        kept.write(bytes(32 << 20))
        until = time.monotonic() + 10
        while watch.most - before <= 12 << 20 and time.monotonic() < until:
            time.sleep(process.EVERY)
        kept.close()
    assert watch.most - before > 12 << 20


def test_the_disk_is_read_at_some_speed(path):
    found = disk.speed(path / folder.NAME)
    assert found["bytes_per_second"] > 0


def good() -> dict:
    """What would be found if all went well."""
    layer, other = folder.layer_bytes(SMALL), folder.other_bytes(SMALL)
    weights = 4 * layer + other
    ended = {"ended": "", "room": 10**6, "seconds": [1.0], "last_read": 4 * layer, "error": ""}
    return {
        "peak resident": {"step_bytes": weights + 1000, "peak_bytes": 2 * weights},
        "peak placed": {"step_bytes": layer, "peak_bytes": int(2.5 * layer) + other + 1000},
        "cold": {"seconds": [[1, 1.2]] * 3, "same_losses": True, "waited": 1, "fetching": 5, "read": 3 * 4 * layer},
        "warm": {"seconds": [[1, 1.05]] * 3, "same_losses": True},
        "visits": {"spent": 0.01, "visits": 100, "seconds": [1.0]},
        "reads": {"read_bytes": {"load": weights // 2, "wrap": weights // 2, "first step": 0, "save": 0}},
        "limit placed": ended,
        "limit resident": {"ended": "load", "room": 10**6, "error": "no memory"},
        "limit mezo": ended,
    }


WORSE = {
    "peak placed": ("peak_bytes", 10**9, "peak memory"),
    "cold": ("seconds", [[1, 1.3]] * 3, "cold cache"),
    "warm": ("same_losses", False, "losses that differ from resident ones, warm"),
    "visits": ("spent", 0.2, "an empty visit"),
    "reads": ("read_bytes", {"load": 10**6, "wrap": 10**9, "first step": 0, "save": 0}, "loading and wrapping"),
    "limit resident": ("ended", "", "resident, memory limited"),
    "limit mezo": ("ended", "load", "MeZO of all weights"),
}


def test_what_is_good_is_not_missed():
    lines = bounds(good(), SMALL, 2)
    assert len(lines) == 15 and all(line.holds for line in lines), [line for line in lines if not line.holds]


@pytest.mark.parametrize("row", WORSE)
def test_what_is_worse_is_missed(row):
    found = good()
    name, value, text = WORSE[row]
    found[row][name] = value
    missed = [line.text for line in bounds(found, SMALL, 2) if not line.holds]
    assert any(text in line for line in missed), missed


def test_the_command_keeps_what_was_found_and_fails_where_a_bound_is_missed(tmp_path, monkeypatch, capsys):
    found = good()
    by_arm = {command.arms(command.parse([]), 0)[row][0]: row for row in reversed(found)}
    monkeypatch.setattr(command, "outcome", lambda arm, options: dict(found[by_arm[arm]]))
    options = ["--shape", "small", "--slots", "2", "--only", "visits", "reads", "--out", str(tmp_path)]
    command.main([*options, "--disk", str(tmp_path)])
    assert "| ok |" in capsys.readouterr().out
    assert [json.loads(x)["row"] for x in (tmp_path / "placement.jsonl").read_text().splitlines()][0] == "disk"
    found["visits"]["spent"] = 9.0
    with pytest.raises(SystemExit, match="bounds are missed: an empty visit"):
        command.main([*options, "--disk", str(tmp_path)])
    assert not list(tmp_path.glob(".placement-*"))
