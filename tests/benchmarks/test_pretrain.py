"""The pre-training benchmark on a small synthetic text: data, methods, runs; the bench resumes."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from benchmarks.pretrain import __main__ as command
from benchmarks.pretrain import methods, rows, train
from benchmarks.pretrain import text as data
from benchmarks.pretrain.bench import Bench, carry_out, records_at
from benchmarks.pretrain.budget import SIZES, Budget
from benchmarks.pretrain.methods import DECISIVE, KNOWN, Method
from benchmarks.pretrain.search import Cell
from benchmarks.shared.ladder import rung
from hybridopt.core.errors import HybridOptWarning
from hybridopt.core.registry import find, names

BUDGET = Budget(
    hidden=32,
    layers=2,
    intermediate=64,
    heads=2,
    vocabulary=280,
    sequence=16,
    batch=4,
    tokens=12 * 64,
    short=0.25,
    choosing=8,
    reporting=6,
    autocast=False,
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


def cell(lr, factor=1.0, seed=0, steps=BUDGET.full_steps):
    return Cell(lr, factor, seed, steps)


# ---- data


def test_rates_are_chosen_on_other_windows_than_those_reported(text, folder):
    assert text.train.shape[1] == text.choosing.shape[1] == text.reporting.shape[1] == BUDGET.sequence
    assert (len(text.choosing), len(text.reporting)) == (BUDGET.choosing, BUDGET.reporting)
    parts = [{tuple(row) for row in part.tolist()} for part in (text.train, text.choosing, text.reporting)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert BUDGET.text(folder).digest == text.digest


def test_of_json_lines_the_strings_are_read(folder):
    assert data.read(folder / "more.jsonl") == "qqqq wwww"


def test_missing_or_short_text_is_an_error(folder):
    with pytest.raises(SystemExit, match="absent.txt"):
        data.load((folder / "train.txt",), folder / "absent.txt", 280, 16, (8, 8))
    with pytest.raises(SystemExit, match="fewer than one window"):
        data.load((folder / "train.txt",), folder / "other.txt", 280, 10**6, (8, 8))
    with pytest.raises(SystemExit, match="3 windows"):
        next(data.shuffled(3, 4, 0))


def test_the_order_depends_on_the_seed_alone_and_no_window_comes_twice_in_an_epoch():
    rows = torch.arange(20).view(10, 2)
    first, again, other = (torch.cat(list(data.batches(rows, 2, 5, seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert sorted(first[:, 0].tolist()) == rows[:, 0].tolist()


# ---- methods


def test_every_policy_has_a_row_or_a_reason():
    policies = {method.policy for method in methods.ready().values()}
    assert set(names("policies")) == policies | {name for name in names("policies") if methods.left_out(name)}
    assert methods.left_out("mezo") == methods.left_out("zo_adam") == methods.PROBES
    assert set(DECISIVE) <= set(KNOWN)


@pytest.mark.parametrize("name", methods.ready())
def test_the_options_of_a_row_are_its_policys(name):
    settings = methods.ready()[name].settings(7)
    made = find("policies", settings.pop("policy"))
    own = {key: value for key, value in settings.items() if key not in ("weights", "falls")}
    assert made(**own).routes and getattr(made(**own), "update_gap", 7) == 7


def test_a_policy_without_a_row_gets_a_plain_one_and_a_broken_one_none(monkeypatch):
    kinds = {"adamw": find("policies", "adamw"), "brand_new": find("policies", "lion")}
    monkeypatch.setattr(methods, "names", lambda kind: ("adamw", "brand_new", "broken"))
    monkeypatch.setattr(methods, "find", lambda kind, name: kinds[name])
    with pytest.warns(UserWarning, match="broken has no row: KeyError"):
        ready = methods.ready()
    assert list(ready) == ["adamw", "adamw-int8", "adamw-split", "adamw-stochastic", "brand_new"]
    assert ready["brand_new"].policy == "brand_new"


def test_rates_are_neighbours_on_the_ladder_around_the_centre():
    assert Method("", 1e-3, "adamw").rates(4) == (3e-4, 1e-3, 3e-3, 1e-2)
    assert rung(0.3, 1) == 1.0 and rung(1e-5, -1) == 3e-6
    assert {method.centre for method in KNOWN.values()} == {rung(m.centre) for m in KNOWN.values()}


# ---- runs


def test_adamw_is_torchs_with_its_clipping_and_groups(text):
    ours = train.run(KNOWN["adamw"], cell(1e-2, 4.0), BUDGET, text)
    model = train.build(BUDGET, 0)
    ends = {model.model.embed_tokens.weight, model.lm_head.weight}
    rest = [p for p in model.parameters() if p not in ends]
    theirs = torch.optim.AdamW([{"params": list(ends), "lr": 4e-2}, {"params": rest}], lr=1e-2, weight_decay=0)
    theirs.observe = lambda loss: None
    clip = torch.nn.utils.clip_grad_norm_
    theirs.register_step_pre_hook(lambda *_: clip(model.parameters(), BUDGET.clip) and None)
    order = data.batches(text.train, BUDGET.batch, BUDGET.full_steps, 0)
    losses = [step["loss"] for step in train.train(model, theirs, BUDGET, BUDGET.full_steps, order)]
    assert ours["losses"] == pytest.approx(losses, abs=2e-4) and losses[-1] < losses[0] - 1
    assert ours["reporting_loss"] == pytest.approx(train.evaluate(model, text.reporting, BUDGET), rel=1e-4)
    assert ours["state_bytes"] == ours["planned_state_bytes"] == 2 * ours["weight_bytes"]


def test_the_state_is_what_was_planned(text):
    measured = train.run(KNOWN["frugal"], cell(1e-3), BUDGET, text)
    assert 0 < measured["state_bytes"] == measured["planned_state_bytes"] < 2 * measured["weight_bytes"]


def test_the_factor_is_of_embeddings_and_output_layer_alone():
    model = train.build(BUDGET, 0)
    KNOWN["frugal-0-whiten"].wrap(model, cell(1e-3, 10.0), 5)
    scales = {e.param.name: e.treatment.lr_scale for e in model.hybrid.resolved().entries}
    assert {name for name, scale in scales.items() if scale == 10} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert {scale for name, scale in scales.items()} == {1.0, 10.0}


def test_a_short_run_reports_nothing_and_bfloat16_weights_are_bfloat16(text):
    measured = train.run(KNOWN["adamw-split"], cell(1e-3, steps=BUDGET.short_steps), BUDGET, text)
    assert measured["reporting_loss"] is None and measured["choosing_loss"] > 0
    assert measured["weight_bytes"] == 2 * measured["parameters"]


def test_adafrugals_density_falls_over_the_run():
    model = train.build(BUDGET, 0)
    KNOWN["adafrugal"].wrap(model, cell(1e-3, steps=40), 5)
    density = model.hybrid.policy.density
    assert (density(0), density(40)) == pytest.approx((0.25, 0.05))


def test_a_run_that_diverges_ends_early_and_has_no_loss(text, monkeypatch):
    whole, told = train.loss_of, []
    monkeypatch.setattr(
        train, "loss_of", lambda *of: whole(*of) * (math.nan if told.append(1) or len(told) > 3 else 1)
    )
    with pytest.warns(HybridOptWarning, match="not finite"):
        measured = train.run(KNOWN["adamw"], cell(1e-3), BUDGET, text)
    assert measured["choosing_loss"] is measured["reporting_loss"] is None and measured["steps_done"] == 4
    json.dumps(measured["final_loss"], allow_nan=False)


def test_the_rate_warms_up_and_ends_at_the_floor(text):
    model = train.build(BUDGET, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.observe = lambda loss: None
    rates = []
    for _ in train.train(model, optimizer, BUDGET, 12, data.batches(text.train, 2, 12, 0)):
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == 0 and max(rates) == 1 and 0.1 < rates[-1] < 0.2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(BUDGET.floor)


def test_windows_are_a_twentieth_of_a_run_and_never_longer_than_a_quarter():
    assert [Budget().update_gap(steps) for steps in (1000, 125, 60, 3)] == [50, 25, 15, 1]


def test_the_60m_model_is_frugals_llama():
    with torch.device("meta"):
        model = train.build(replace(SIZES["60m"], device="meta"), 0)
    linear = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
    assert linear == 8 * (4 * 512 * 512 + 3 * 512 * 1376)


# ---- bench


def bench(folder, out, methods=("adamw",), seeds=(0, 1)):
    made = {m: rows.Row("main", m, KNOWN[m], BUDGET, seeds, brackets=0) for m in methods}
    return Bench(records_at(out / "pretrain.jsonl"), folder, {row.key: row for row in made.values()})


def measure(bench, minutes=math.inf):
    with ThreadPoolExecutor(1) as pool:
        bench.measure(pool, 1, minutes)


def test_a_bench_that_was_stopped_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "FACTORS", (4.0,))
    monkeypatch.setattr(Method, "rates", lambda self, tries: (1e-3, 3e-3))
    first = bench(folder, tmp_path)
    run = first.wanted("main/adamw")[1]
    carry_out(run, first.rows, folder, first.records)  # and then it was killed
    kept = first.records.all()
    assert [w.cell.lr for w in first.wanted("main/adamw")] == [1e-3]
    measure(first)
    assert kept[0] in first.records.all() and not first.wanted("main/adamw")
    more = bench(folder, tmp_path, seeds=(0, 1, 2))
    assert [w.cell.seed for w in more.wanted("main/adamw")] == [2]
    made = [(r["lr"], r["factor"], r["seed"], r["steps"]) for r in first.records.all()]
    assert len(made) == len(set(made))
    more.rows = {key: replace(row, budget=replace(BUDGET, clip=2.0)) for key, row in more.rows.items()}
    with pytest.raises(ValueError, match="clip"):
        more.wanted("main/adamw")


def test_runs_at_a_given_place_are_full_ones_without_a_search(folder, tmp_path):
    row = rows.Row("60m", "adamw", KNOWN["adamw"], BUDGET, seeds=(0, 1), at=(1e-3, 4.0))
    there = Bench(records_at(tmp_path / "gpu_pretrain.jsonl"), folder, {row.key: row})
    (first,) = there.wanted(row.key)
    assert first.cell == cell(1e-3, 4.0)
    carry_out(first, there.rows, folder, there.records)
    assert [run.cell for run in there.wanted(row.key)] == [cell(1e-3, 4.0, seed=1)]
    assert there.records.all()[0]["reporting_loss"] > 0


def test_a_method_that_raises_is_dropped(folder, tmp_path):
    broken = bench(folder, tmp_path)
    broken.rows = {"main/bad": rows.Row("main", "bad", Method("", 1e-3, "adamw", {"no_such": 1}), BUDGET)}
    measure(broken)
    assert "no_such" in broken.failed["main/bad"] and not broken.records.all()


def test_no_run_starts_when_the_time_is_over(folder, tmp_path):
    late = bench(folder, tmp_path)
    measure(late, minutes=0)
    assert not late.records.all()


def test_the_command_goes_through_the_decisive_rows_first(tmp_path):
    asked = command.parse(["--out", str(tmp_path), "--studies", "main", "8m", "2m", "--tokens", "2048"])
    made = command.bench_of(asked)
    keys = list(made.rows)
    assert keys[:4] == [f"main/{name}" for name in DECISIVE]
    assert keys.index("2m/adamw") < keys.index("main/muon") < keys.index("8m/adamw")
    assert {row.budget.tokens for row in made.rows.values()} == {2048}
    cuda = command.bench_of(command.parse(["--out", str(tmp_path), "--studies", "60m", "--device", "cuda"]))
    assert cuda.records.path.name == "gpu_pretrain.jsonl" and set(cuda.rows) == {f"60m/{name}" for name in DECISIVE}
