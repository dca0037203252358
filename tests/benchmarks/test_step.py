"""The step benchmark measures what it says: shapes, ratios, bytes, and rows that can be resumed."""

import json

import pytest
import torch

from benchmarks.shared import timing
from benchmarks.shared.tensor_bytes import bytes_of, state_tensors
from benchmarks.step import goals, hybrid, measure, peers, rows
from benchmarks.step import table as tables
from benchmarks.step.__main__ import main
from benchmarks.step.measure import Bench, Subject
from benchmarks.step.sets import SETS, Experts, patterns
from benchmarks.step.weights import Weights
from hybridopt.model.roles import guess

TINY = SETS["tiny"]


@pytest.fixture(scope="module")
def bench():
    return Bench(TINY, torch.float32, "cpu", pairs=3)


# ---- shapes


@pytest.mark.parametrize(
    ("name", "millions", "count"),
    [("60m", 58.07, 75), ("1b", 1235.81, 146), ("8b", 8030.26, 291), ("experts", 67.63, 8)],
)
def test_sets_have_the_sizes_of_their_models(name, millions, count):
    shapes = SETS[name].shapes
    assert len(shapes) == count
    assert sum(torch.Size(s).numel() for s in shapes.values()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_names_tell_the_roles():
    roles = [guess(name, torch.empty(shape)) for name, shape in TINY.shapes.items()]
    assert {role: roles.count(role) for role in set(roles)} == {"embedding": 1, "head": 1, "norm": 5, "linear": 14}
    assert {guess(name, torch.empty(shape)) for name, shape in Experts(1, 2, 8, 12).shapes.items()} == {"linear"}


def test_rows_begin_with_the_same_weights_and_gradients():
    weights = Weights(TINY, torch.float32, "cpu")
    first, marks = weights.fresh(), weights.marks()
    assert 0.018 < torch.cat([p.detach().flatten() for p in first.values()]).std() < 0.022
    first["model.norm.weight"].data.add_(1)
    assert [n for n, mark in weights.marks().items() if mark != marks[n]] == ["model.norm.weight"]
    weights.fresh()
    assert weights.marks() == marks


# ---- times


def test_the_ratio_is_to_the_mean_of_both_neighbours():
    found = measure.summary([3.0, 6.0, 10.0], [1.0, 2.0, 4.0, 1.0])
    assert found["ratio"] == 2.0 and found["seconds"] == 6.0 and found["reference_seconds"] == 1.5
    assert measure.summary([3.0], [1.0, 2.0])["ratio_quartiles"] == [2.0, 2.0]


def test_slow_steps_get_fewer_pairs():
    assert [measure.pairs_for(once, 15) for once in (0.01, 0.6, 3.0)] == [15, 5, 3]
    assert measure.pairs_for(3.0, 2) == 2


def test_a_step_that_works_twice_as_long_has_twice_the_ratio(bench, monkeypatch):
    """By a clock that every fused AdamW step of this optimizer moves on by one."""
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    yardstick = bench._yardstick.step
    monkeypatch.setattr(bench._yardstick, "step", lambda: (yardstick(), clock.__setitem__(0, clock[0] + 1)))

    def make(params):
        return Subject(lambda: clock.__setitem__(0, clock[0] + 2), None)

    monkeypatch.setattr(bench, "bandwidth", lambda: 1.0)
    row = bench.measure(make)
    assert row["ratio"] == 2.0 and row["first_seconds"] == 2.0 and row["pairs"] == 3
    assert row["idle_tensors"] == len(TINY.shapes) and row["minimal_bytes"] == 0


def test_what_a_step_leaves_alone_gets_no_gradient_and_moves_no_bytes(bench):
    seen = []

    def make(params):
        one = params["lm_head.weight"]

        def work():
            seen.append([n for n, p in params.items() if p.grad is None])
            one.data.sub_(one.grad)

        return Subject(work, None)

    row = bench.measure(make)
    assert row["idle_tensors"] == 20 and row["minimal_bytes"] == 3 * 4 * 128 * 32
    assert seen[0] == [] and len(seen[-1]) == 20 and "lm_head.weight" not in seen[-1]


# ---- rows


@pytest.mark.parametrize(
    ("row", "bytes_each"),
    [
        ("hybridopt.adamw", 8),
        ("hybridopt.signsgd", 0),
        ("torch.adamw-fused", 8),
        ("torch.sgd-fused", 0),
        ("lomo-optim.lomo", 0),
        ("adam-mini", 4),
    ],
)
def test_state_is_what_the_method_is_known_for(bench, row, bytes_each):
    known = hybrid.rows(torch.float32, False) | peers.rows(TINY)
    if row in peers.missing():
        pytest.skip(f"{row} is not installed")
    found = bench.measure(known[row])
    assert found["state_bytes_per_parameter"] == pytest.approx(bytes_each, abs=0.2)
    assert found["idle_tensors"] == 0
    assert found["minimal_bytes"] == 3 * 4 * bench.weights.numel + 2 * found["state_bytes"]
    assert ("ignore" in found["variants"]) == row.startswith("hybridopt")


def test_every_policy_and_bf16_twice():
    from hybridopt.core.registry import names

    known = hybrid.rows(torch.bfloat16, False)
    assert {f"hybridopt.{name}" for name in names("policies")} <= known.keys()
    assert {f"hybridopt.{name}+nearest" for name in names("policies")} <= known.keys()
    assert not any("+nearest" in name for name in hybrid.rows(torch.float32, False))


def test_what_keeps_a_remainder_is_measured_on_bfloat16_alone():
    known = hybrid.rows(torch.bfloat16, False)
    kept = {}
    for name in ("hybridopt.adamw-split", "hybridopt.adamw-split-companded8"):
        p = torch.nn.Parameter(torch.ones(64, 128, dtype=torch.bfloat16))
        p.grad = torch.ones_like(p)
        subject = known[name]({"a.weight": p})
        subject.step()
        kept[name] = bytes_of(state_tensors(subject.holds)) / p.numel()
        assert name not in hybrid.rows(torch.float32, False) and f"{name}+nearest" not in known
    assert list(kept.values()) == [9.0, 1 + 2 * (1 + 4 / 128)]


def test_nearest_is_nearest():
    """A step far below half an ulp moves some weights when rounded at random, none when rounded to nearest."""
    known, moved = hybrid.rows(torch.bfloat16, False), {}
    for name in ("hybridopt.signsgd", "hybridopt.signsgd+nearest"):
        p = torch.nn.Parameter(torch.full((64, 64), 1.0, dtype=torch.bfloat16))
        subject = known[name]({"a.weight": p})
        subject.holds.param_groups[0]["lr"] = 1e-4
        p.grad = torch.ones_like(p)
        subject.step()
        moved[name] = int((p != 1).sum())
    assert moved["hybridopt.signsgd"] > 20 and moved["hybridopt.signsgd+nearest"] == 0


# ---- rows, table, commands


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    run(folder)
    return folder


def run(folder, *more):
    common = ["--set", "tiny", "--pairs", "2", "--threads", "1", "--compile", "false", "--dtypes", "fp32"]
    main([*common, "--only", "hybridopt.signsgd|torch.sgd*", "--out", str(folder), *more])


def test_a_run_writes_records_table_and_plot(results, capsys):
    run(results, "--table", "--json")
    assert json.loads((results / "step.jsonl").read_text().splitlines()[0])["row"] == "hybridopt.signsgd"
    records = json.loads(capsys.readouterr().out.splitlines()[-1])["groups"]["cpu-tiny-fp32"]
    assert [record["row"] for record in records] == ["hybridopt.signsgd", "torch.sgd-fused"]
    assert all(0 < record["ratio"] < 1000 and 0 < record["share_of_copy_bandwidth"] < 10 for record in records)
    assert "hybridopt.signsgd" in (results / "step.md").read_text()
    assert (results / "step.png").stat().st_size > 1000


def test_rows_that_are_there_are_not_measured_again_failed_ones_are(results, capsys):
    records = rows.records_at(results)
    other, record = records.all()
    records.put({k: record[k] for k in ("row", "index", "settings", "environment")} | {"failed": "x"})
    run(results)
    assert records.all()[0] == other and records.all()[1]["ratio"] > 0 and len(records.all()) == 2
    with pytest.raises(ValueError, match="pairs"):
        run(results, "--pairs", "3")


def test_a_failing_row_is_recorded_and_shown(bench):
    def make(params):
        raise ArithmeticError("no way")

    record = rows.outcome(bench, make, 60)
    assert record == {"failed": "ArithmeticError: no way"}
    settings = {"device": "cpu", "set": "60m", "dtype": "fp32"}
    cells = tables.cells(record | {"row": "hybridopt.adamw", "settings": settings})
    assert len(cells) == len(tables.HEADER) == len(tables.SHORT) and "failed" in cells and "1.20" in cells


def test_targets_and_what_is_missed():
    record = {"row": "hybridopt.signsgd", "ratio": 0.9, "settings": {"device": "cpu", "set": "60m", "dtype": "fp32"}}
    assert goals.missed(record) == pytest.approx(0.2)
    assert goals.missed(record | {"ratio": 0.75}) is None
    settings = record["settings"] | {"device": "cuda"}
    assert goals.goal(record | {"settings": settings}) is None


def test_policies_with_targets_have_rows():
    from hybridopt.core.registry import names

    for (size, dtype), wanted in goals.GOALS.items():
        known = hybrid.rows(rows.DTYPES[dtype], False)
        for row in wanted:
            if row.removeprefix("hybridopt.").removesuffix("+nearest") in names("policies"):
                assert row in known
        assert set(patterns(None, size).split("|")) - {"*"} <= known.keys() | peers.PEERS.keys()
