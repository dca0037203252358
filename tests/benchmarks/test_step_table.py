"""The step benchmark measures what it says: shapes, ratios, bytes, and rows that can be resumed."""

import json
import subprocess
import sys

import pytest
import torch

from support.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import step  # noqa: E402
import step_hybrid  # noqa: E402
import step_measure  # noqa: E402
import step_peers  # noqa: E402
import step_table  # noqa: E402
import train_memory  # noqa: E402
from step_measure import Bench, Subject  # noqa: E402
from step_shapes import SETS, Weights  # noqa: E402
from tensor_bytes import Peak, held, highest, tensors  # noqa: E402

from hybridopt.model.roles import guess  # noqa: E402

TINY = SETS["tiny"]


@pytest.fixture(scope="module")
def bench():
    return Bench(TINY, torch.float32, "cpu", pairs=3)


# ---- shapes


@pytest.mark.parametrize(
    ("name", "millions", "count"), [("60m", 58.07, 75), ("1b", 1235.81, 146), ("8b", 8030.26, 291)]
)
def test_sets_have_the_sizes_of_their_models(name, millions, count):
    shapes = SETS[name].shapes
    assert len(shapes) == count
    assert sum(torch.Size(s).numel() for s in shapes.values()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_names_tell_the_roles():
    roles = [guess(name, torch.empty(shape)) for name, shape in TINY.shapes.items()]
    assert {role: roles.count(role) for role in set(roles)} == {"embedding": 1, "head": 1, "norm": 5, "linear": 14}


def test_shapes_are_those_of_transformers():
    model = train_memory.build("tiny", "cpu")
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == TINY.shapes
    assert model.dtype == torch.bfloat16 and model.is_gradient_checkpointing


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
    found = step_measure.summary([3.0, 6.0, 10.0], [1.0, 2.0, 4.0, 1.0])
    assert found["ratio"] == 2.0 and found["seconds"] == 6.0 and found["reference_seconds"] == 1.5
    assert step_measure.summary([3.0], [1.0, 2.0])["ratio_quartiles"] == [2.0, 2.0]


def test_slow_steps_get_fewer_pairs():
    assert [step_measure.pairs_for(once, 15) for once in (0.01, 0.6, 3.0)] == [15, 5, 3]
    assert step_measure.pairs_for(3.0, 2) == 2


def test_a_step_that_works_twice_as_long_has_twice_the_ratio(bench, monkeypatch):
    """By a clock that every fused AdamW step of this optimizer moves on by one."""
    clock = [0.0]
    monkeypatch.setattr(step_measure.time, "perf_counter", lambda: clock[0])
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


# ---- bytes


def test_held_counts_each_storage_once_and_no_weights():
    weight, state = torch.zeros(10), torch.zeros(6)
    keeper = {"a": [state, state[2:]], "b": (weight.view(2, 5),), "self": None}
    keeper["self"] = keeper
    assert held(keeper, [weight]) == 24
    assert held(keeper) == 64


def test_held_looks_into_tensor_subclasses():
    pytest.importorskip("torchao")
    from torchao.optim.subclass_8bit import OptimState8bit

    state = OptimState8bit.zeros((4096,))
    inside = list(tensors([state]))
    assert {t.dtype for t in inside} == {torch.uint8, torch.float32} and 4096 < held(state) < 6000


def test_peak_is_the_most_that_was_there_at_once():
    x = torch.ones(10_000)
    with Peak("cpu") as peak:
        y = x + 1
        z = y + 1
        del y
        z = z + 1
        del z
    assert 80_000 <= peak.extra < 80_100  # the numbers 1 are tensors too
    assert highest([5, -5, 3, 4, -2]) == 7


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
    rows = step_hybrid.rows(torch.float32, False) | step_peers.rows(TINY)
    if row not in rows:
        pytest.skip(f"{row} is not installed")
    found = bench.measure(rows[row])
    assert found["state_bytes_per_parameter"] == pytest.approx(bytes_each, abs=0.2)
    assert found["idle_tensors"] == 0
    assert found["minimal_bytes"] == 3 * 4 * bench.weights.numel + 2 * found["state_bytes"]
    assert ("ignore" in found["variants"]) == row.startswith("hybridopt")


def test_every_policy_and_bf16_twice():
    from hybridopt.core.registry import names

    rows = step_hybrid.rows(torch.bfloat16, False)
    assert {f"hybridopt.{name}" for name in names("policies")} <= rows.keys()
    assert {f"hybridopt.{name}+nearest" for name in names("policies")} <= rows.keys()
    assert not any("+nearest" in name for name in step_hybrid.rows(torch.float32, False))


def test_nearest_is_nearest():
    """A step far below half an ulp moves some weights when rounded at random, none when rounded to nearest."""
    rows, moved = step_hybrid.rows(torch.bfloat16, False), {}
    for name in ("hybridopt.signsgd", "hybridopt.signsgd+nearest"):
        p = torch.nn.Parameter(torch.full((64, 64), 1.0, dtype=torch.bfloat16))
        subject = rows[name]({"a.weight": p})
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
    step.main([*common, "--only", "hybridopt.signsgd|torch.sgd*", "--out", str(folder), *more])


def test_a_run_writes_table_json_and_plot(results):
    document = json.loads((results / "step.json").read_text())
    records = document["groups"]["cpu-tiny-fp32"]
    assert [record["row"] for record in records] == ["hybridopt.signsgd", "torch.sgd-fused"]
    assert all(0 < record["ratio"] < 1000 and 0 < record["share_of_copy_bandwidth"] < 10 for record in records)
    assert "hybridopt.signsgd" in (results / "step.md").read_text()
    assert (results / "step.png").stat().st_size > 1000


def test_rows_that_are_there_are_not_measured_again_failed_ones_are(results, capsys):
    path = results / "step" / "cpu-tiny-fp32" / "torch.sgd-fused.json"
    other = path.with_name("hybridopt.signsgd.json")
    before = other.read_bytes()
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: record[k] for k in ("row", "index", "settings", "environment")} | {"failed": "x"}))
    run(results)
    assert other.read_bytes() == before and json.loads(path.read_text())["ratio"] > 0
    with pytest.raises(ValueError, match="pairs"):
        run(results, "--pairs", "3")


def test_a_failing_row_is_recorded_and_shown(bench):
    def make(params):
        raise ArithmeticError("no way")

    record = step.outcome(bench, make)
    assert record == {"failed": "ArithmeticError: no way"}
    settings = {"device": "cpu", "set": "60m", "dtype": "fp32"}
    cells = step_table.cells(record | {"row": "hybridopt.adamw", "settings": settings})
    assert len(cells) == len(step_table.HEADER) == len(step_table.SHORT) and "failed" in cells and "1.10" in cells


def test_targets_and_what_is_missed():
    record = {"row": "hybridopt.signsgd", "ratio": 0.6, "settings": {"device": "cpu", "set": "60m", "dtype": "fp32"}}
    assert step_table.missed(record) == pytest.approx(0.2)
    assert step_table.missed(record | {"ratio": 0.5}) is None
    settings = record["settings"] | {"device": "cuda"}
    assert step_table.goal(record | {"settings": settings}) is None


def test_policies_with_targets_have_rows():
    from hybridopt.core.registry import names

    for dtype, goals in step_table.GOALS.items():
        rows = step_hybrid.rows(step.DTYPES[dtype], False)
        for row in goals:
            if row.removeprefix("hybridopt.").removesuffix("+nearest") in names("policies"):
                assert row in rows


def test_peak_memory_of_a_training_step(tmp_path):
    train_memory.main(["--device", "cpu", "--only", "torch-adamw", "adamw", "frugal-0", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "train_memory.json").read_text())["rows"]
    plain, full, free = (row for row in rows)
    assert not any("failed" in row for row in rows)
    weights = plain["weight_bytes"]
    assert weights == 2 * sum(torch.Size(s).numel() for s in TINY.shapes.values())
    assert full["state_bytes"] == pytest.approx(4 * weights, rel=0.01)
    assert free["state_bytes"] < full["state_bytes"] / 2
    for row in rows:  # weights, gradients and state are there together when the update begins
        assert row["peak_bytes"] >= 2 * weights + row["state_bytes"]
    assert full["peak_bytes"] - free["peak_bytes"] > 0.5 * (full["state_bytes"] - free["state_bytes"])


def test_the_gpu_script_is_bash():
    subprocess.run(["bash", "-n", BENCHMARKS / "gpu.sh"], check=True)
