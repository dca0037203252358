"""The table of launches: what breaks a bound, what failed, and which rows there are."""

import importlib.util

import pytest
import torch

from benchmarks.launches import __main__ as launches
from benchmarks.launches.machine_table import MOST, faults
from benchmarks.launches.own_kernels import OWN
from benchmarks.launches.rows import BOUND, EVERY, SHAPES
from benchmarks.launches.table import broken, publish, records_at
from hybridopt.core.registry import names


def record(row, **counts):
    return {"row": row, "counts": counts, "settings": {}, "environment": {"torch": "1"}}


def test_bounds_that_are_broken_are_named():
    assert broken(record("adamw", compiled=240, launches=450, waits=1)) == []
    (line,) = broken(record("adamw", compiled=241, launches=450))
    assert line == "adamw: 241 compiled calls, at most 240"


@pytest.mark.parametrize("row", ["adamw", "galore, fused, LoRA"])
def test_errors_are_no_success(row):
    (line,) = broken(record(row, error="RuntimeError: two\n devices"))
    assert line == f"{row}: RuntimeError: two devices"
    assert bool(broken(record(row, refused="no"))) == (row in BOUND), "a policy may refuse tensors, a bound may not go"


@pytest.mark.parametrize("arguments", [[], ["--part", "policies"], ["--rows", "adamw"]])
def test_without_cuda_nothing_is_counted_or_written_over(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    records_at(tmp_path).put(record("adamw", launches=1))
    with pytest.raises(SystemExit, match="needs a CUDA build of torch .*benchmarks/README.md tells how"):
        launches.main(["--out", str(tmp_path), *arguments])
    assert [one["counts"] for one in records_at(tmp_path).all()] == [{"launches": 1}]


def test_kernels_without_triton_are_not_begun(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs triton;"):
        launches.check(["bounds", "kernels"])
    launches.check(["bounds", "policies", "windows"])


def test_kernels_that_spill_take_passes_or_have_other_bits_are_named():
    def kernel(**other):
        return {"loads": {"128": 1}, "stores": {"128": 1}, "spilled": 0} | other

    def graphs(name, *kernels, buffers=0):
        return faults({"row": f"graphs: {name}", "found": {"graphs": [{"kernels": kernels, "buffers": buffers}]}})

    narrow = kernel(stores={"16": 1})
    assert graphs("adamw", kernel()) == graphs("adalomo", narrow, kernel(), buffers=3) == []
    assert graphs("adalomo", kernel(spilled=8)) == ["graphs: adalomo: registers are spilled"]
    for some, buffers in [((kernel(), kernel()), 0), ((kernel(),), 1), ((narrow,), 0), ((), 0)]:
        assert graphs("adamw", *some, buffers=buffers) == ["graphs: adamw: it is not one pass of wide accesses"]
    for name, off in [("frugal", 1), ("frugal, int8", 9)]:
        for n, said in [(0, []), (off, [f"bits: {name}: {off} numbers of weight differ"])]:
            found = {"weight": [n, 80_000], "exp_avg_sq_absmax": [21, 80]}
            assert faults({"row": f"bits: {name}", "found": found}) == said
    assert faults({"row": "bits: frugal", "found": {"error": "no triton"}}) == ["bits: frugal: no triton"]


def test_the_kernels_of_the_project_are_no_more_than_they_were_wide_and_near_the_cpu():
    def own(*kernels):
        return faults({"row": "own_kernels: adalomo", "found": list(kernels)})

    def kernel(name, **other):
        return {"name": name, "loads": {"128": 1}, "stores": {"128": 1}, "spilled": 0} | other

    four = [kernel(name) for name in ("look_0", "settle_0", "look_1", "update")]
    narrow = {"loads": {"32": 1}, "stores": {"32": 1}}
    assert MOST.keys() == OWN.keys() and own(*four) == []
    assert own(*four, kernel("look_2")) == ["own_kernels: adalomo: 5 kernels, at most 4"]
    assert own(kernel("settle_0", **narrow)) == [] == own(kernel("look_0", stores={"32": 1}))
    assert own(kernel("update", **narrow)) == ["own_kernels: adalomo: update has no accesses of 16 bytes"]
    assert own(kernel("look_0", spilled=4)) == ["own_kernels: adalomo: registers of look_0 are spilled"]
    for off, said in [(1e-6, []), (1e-4, ["bits: came: exp_avg is off by 1.0e-04 of its largest number"])]:
        assert faults({"row": "bits: came", "found": {"weight": [3, 80, 0.0], "exp_avg": [9, 80, off]}}) == said


def test_every_policy_and_release_has_rows():
    kinds = [(row.policy, row.release, row.shapes) for row in EVERY.values()]
    assert len(set(kinds)) == len(EVERY) == 4 * len(names("policies"))
    assert len(SHAPES["8b"]) == 291 and all("lora_" in name for name in SHAPES["LoRA"])


def test_the_table_shows_counts_bounds_and_what_was_said(tmp_path):
    records = records_at(tmp_path)
    records.put(record("adamw", compiled=226, launches=1234))
    records.put(record("galore, fused, LoRA", refused="too\n small"))
    text = publish(records)
    assert "| adamw | 226 (240) | 1,234 (450) |" in text
    assert "| galore, fused, LoRA | refused |" in text and "- galore, fused, LoRA: too small" in text
    assert (tmp_path / "launches.md").read_text() == text
