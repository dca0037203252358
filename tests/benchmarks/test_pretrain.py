"""The pre-training benchmark on a small synthetic text: data, search, runs, table."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from benchmarks.pretrain import methods, search, train
from benchmarks.pretrain import table as tables
from benchmarks.pretrain import text as data
from benchmarks.pretrain.bench import Bench, Run
from benchmarks.pretrain.budget import SIZES, Budget
from benchmarks.pretrain.methods import KNOWN, Method
from benchmarks.shared.ladder import rung
from hybridopt.core.registry import find, names

BUDGET = Budget(
    hidden=32,
    layers=2,
    intermediate=64,
    heads=2,
    vocabulary=280,
    sequence=16,
    batch=4,
    steps=12,
    update_gap=4,
    validation=8,
    train=("train.txt", "more.jsonl"),
    held_out="other.txt",
)
WORDS = ["the", "whale", "swam", "under", "a", "ship", "of", "stone", "and", "salt"]


def sentences(seed, count=1500):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text(sentences(1))
    (folder / "more.jsonl").write_text(json.dumps({"question": "qqqq wwww", "n": 3}) + "\n")
    (folder / "other.txt").write_text(sentences(2))
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return BUDGET.text(folder)


# ---- data


def test_validation_is_the_other_document(text, folder):
    assert text.train.shape[1] == text.validation.shape[1] == BUDGET.sequence
    assert len(text.validation) == BUDGET.validation
    rows = {tuple(row) for row in text.train.tolist()}
    assert not any(tuple(row) in rows for row in text.validation.tolist())
    assert BUDGET.text(folder).digest == text.digest


def test_of_json_lines_the_strings_are_read(folder):
    assert data.read(folder / "more.jsonl") == "qqqq wwww"


def test_missing_or_short_text_is_an_error(folder):
    with pytest.raises(SystemExit, match="absent.txt"):
        data.load([folder / "train.txt"], folder / "absent.txt", 280, 16, 8)
    with pytest.raises(SystemExit, match="fewer than one window"):
        data.load([folder / "train.txt"], folder / "other.txt", 280, 10**6, 8)
    with pytest.raises(SystemExit, match="3 windows"):
        next(data.shuffled(3, 4, 0))


def test_the_order_depends_on_the_seed_alone_and_no_window_comes_twice_in_an_epoch():
    rows = torch.arange(20).view(10, 2)
    first, again, other = (torch.cat(list(data.batches(rows, 2, 5, seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert sorted(first[:, 0].tolist()) == rows[:, 0].tolist()


# ---- methods


def test_every_ready_policy_has_a_row_or_a_reason():
    policies = {method.policy for method in methods.ready().values()} | set(methods.EXCLUDED)
    assert set(names("policies")) <= policies


@pytest.mark.parametrize("name", methods.ready())
def test_the_options_of_a_row_are_its_policys(name):
    settings = methods.ready()[name].settings(7)
    if (policy := settings.pop("policy", None)) is not None:
        made = find("policies", policy)(**settings)
        assert made.routes and getattr(made, "update_gap", 7) == 7


def test_a_policy_without_a_row_gets_a_plain_one_and_a_broken_one_none(monkeypatch):
    there = ("adamw", "brand_new", "broken")
    monkeypatch.setattr(methods, "names", lambda kind: there)
    monkeypatch.setattr(methods, "find", lambda kind, name: {"adamw": 1, "brand_new": 1}[name])
    with pytest.warns(UserWarning, match="broken has no row: KeyError"):
        ready = methods.ready()
    assert list(ready) == ["adamw", "torch-adamw", "adamw-int8", "brand_new"]
    assert ready["brand_new"].policy == "brand_new"


def test_rates_are_neighbours_on_the_ladder_around_the_centre():
    method = Method("", 1e-3, None)
    assert method.rates(4) == [3e-4, 1e-3, 3e-3, 1e-2]
    assert method.rates(1) == [1e-3]
    assert rung(0.3, 1) == 1.0 and rung(1e-5, -1) == 3e-6
    assert {method.centre for method in KNOWN.values()} == {rung(m.centre) for m in KNOWN.values()}


# ---- search


def losses_of(first, last, best):
    """Losses on the ladder between two rungs, with the least at `best`."""
    rungs = [rung(first, i) for i in range(20)]
    return {lr: abs(math.log(lr / best)) for lr in rungs if lr <= last}


def test_the_search_goes_on_beyond_the_edge_until_the_best_lies_inside():
    method = Method("", 1e-3, None)
    assert search.next_rates(method, {1e-3: 1.0}, 4) == [3e-4, 3e-3, 1e-2]
    assert search.next_rates(method, losses_of(3e-4, 1e-2, 1e-2), 4) == [3e-2]
    assert search.next_rates(method, losses_of(3e-4, 1e-2, 3e-4), 4) == [1e-4]
    assert search.next_rates(method, losses_of(3e-4, 1e-2, 1e-3), 4) == []
    assert search.next_rates(method, losses_of(3e-4, 1.0, 1.0), 4) == []  # four more were tried
    assert search.next_rates(method, {1e-3: 1.0}, 1) == []


def test_a_rate_that_diverged_is_never_the_best_while_another_is_not():
    runs = {(lr, 0): {"validation_loss": loss} for lr, loss in {1e-3: 2.0, 3e-3: None}.items()}
    assert search.best(search.tried(runs)) == 1e-3
    assert search.best({1e-3: math.inf, 3e-3: math.inf}) == 1e-3


# ---- runs


def test_adamw_is_torchs_and_learns(text):
    ours, theirs = (train.run(KNOWN[name], 1e-2, 0, BUDGET, text) for name in ("adamw", "torch-adamw"))
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5)
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-4)
    assert ours["losses"][-1] < ours["losses"][0] - 1
    assert ours["state_bytes"] == ours["planned_state_bytes"] == 2 * ours["weight_bytes"]
    assert ours["text"] == theirs["text"] and ours["steps_done"] == BUDGET.steps


def test_the_state_is_what_was_planned(text):
    measured = train.run(KNOWN["frugal-columns"], 1e-3, 0, BUDGET, text)
    assert 0 < measured["state_bytes"] == measured["planned_state_bytes"] < 2 * measured["weight_bytes"]


def test_a_run_that_diverges_ends_early_and_has_no_loss(text):
    measured = train.run(KNOWN["torch-adamw"], 1e30, 0, BUDGET, text)
    assert measured["validation_loss"] is None and measured["steps_done"] < BUDGET.steps
    json.dumps(measured["validation_loss"], allow_nan=False)
    json.dumps(measured["final_loss"], allow_nan=False)


def test_the_rate_warms_up_and_ends_at_the_floor(text):
    model = train.build(BUDGET, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rates = []
    for _ in train.train(model, optimizer, BUDGET, data.batches(text.train, 2, BUDGET.steps, 0)):
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == 0 and max(rates) == 1 and 0.1 < rates[-1] < 0.2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(BUDGET.floor)


def test_the_60m_preset_is_frugals_llama():
    with torch.device("meta"):
        model = train.build(replace(SIZES["60m"], device="meta"), 0)
    linear = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
    assert linear == 8 * (4 * 512 * 512 + 3 * 512 * 1376)


# ---- bench


def bench(folder, out, methods=("torch-adamw",), tries=2, seeds=(0, 1)):
    records = search.records_at(out / "pretrain.jsonl")
    return Bench(records, folder, BUDGET, {name: KNOWN[name] for name in methods}, tries, list(seeds))


def measure(bench, minutes=math.inf):
    with ThreadPoolExecutor(1) as pool:
        bench.measure(pool, 1, minutes)


def made(bench):
    """The records by learning rate and seed, as they stand in the file, of methods that have some."""
    return {name: runs for name in KNOWN if (runs := search.runs_of(bench.records, name))}


def test_the_bench_runs_every_seed_and_resumes(folder, tmp_path):
    first = bench(folder, tmp_path, tries=1)
    measure(first)
    done = made(first)["torch-adamw"]
    assert set(done) == {(1e-3, 0), (1e-3, 1)}
    again = bench(folder, tmp_path, tries=1, seeds=(0, 1, 2))
    assert again.wanted("torch-adamw") == [Run("torch-adamw", 1e-3, 2)]
    measure(again)
    more = made(again)["torch-adamw"]
    assert len(more) == 3 and done == {run: more[run] for run in done} and not again.wanted("torch-adamw")
    again.budget = Budget()
    with pytest.raises(ValueError, match="choose another folder"):
        again.wanted("torch-adamw")


def test_a_method_that_raises_is_dropped_and_the_others_go_on(folder, tmp_path):
    broken = bench(folder, tmp_path, ["torch-adamw"], tries=1, seeds=[0])
    broken.methods = {"bad": Method("", 1e-3, "adamw", {"no_such_option": 1})} | broken.methods
    measure(broken)
    assert "no_such_option" in broken.failed["bad"]
    assert {name: set(runs) for name, runs in made(broken).items()} == {"torch-adamw": {(1e-3, 0)}}


def test_no_run_starts_when_the_time_is_over(folder, tmp_path):
    late = bench(folder, tmp_path)
    measure(late, minutes=0)
    assert not made(late)


# ---- table


def record(name, lr, seed, loss, state=8):
    times = {"median": 0.5, "mean": 0.25}
    measured = {"validation_loss": loss, "state_bytes": state, "planned_state_bytes": state, "weight_bytes": 4}
    measured |= {"cpu_seconds_per_step": times, "update_cpu_seconds_per_step": times, "run_seconds": 1.0}
    rest = {"settings": BUDGET.settings(KNOWN[name]), "environment": {"torch": "2"}, "peak_bytes": None}
    return {"method": name, "lr": lr, "seed": seed} | measured | rest


def test_the_table_compares_seed_by_seed_at_the_best_rate(tmp_path, monkeypatch):
    records, drawn = search.records_at(tmp_path / "pretrain.jsonl"), []
    monkeypatch.setattr(tables, "plot", lambda points, *_: drawn.extend(points))
    runs = [record("adamw", lr, 0, loss) for lr, loss in {1e-3: 3.2, 3e-3: 3.0, 1e-2: None}.items()]
    runs += [record("adamw", 3e-3, 1, 3.4), record("adamw", 1e-3, 1, 9.0)]
    runs += [record("frugal-0", 1e-3, seed, loss, state=0) for seed, loss in {0: 3.1, 1: 3.6}.items()]
    for one in runs:
        records.put(one)
    table = tables.publish(records, KNOWN, BUDGET.shared())
    assert "| AdamW | 0.003 | 3.200 ± 0.283 | – | 8 B | 8 B | 0.500 | 250.0 |" in table
    assert "| FRUGAL ρ=0 | 0.001 (edge) | 3.350 ± 0.354 | +0.150 ± 0.071 | 0 B | 0 B |" in table
    assert [(point.label, point.x) for point in drawn] == [("AdamW", 8), ("FRUGAL ρ=0", 0)]
    written = (tmp_path / "pretrain.md").read_text()
    assert table in written and "**0.003: 3.000**, 0.01: diverged" in written
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + 2
    with pytest.raises(SystemExit, match="another steps"):
        tables.publish(records, KNOWN, BUDGET.shared() | {"steps": 1})
