"""The Addax benchmark on small synthetic reviews: data, model cache, arms, search, verdicts, table."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from benchmarks.addax import bench, cache, data, pretraining, search, stepping, train, verdict
from benchmarks.addax import examples as asked
from benchmarks.addax import model as models
from benchmarks.addax import table as tables
from benchmarks.addax.arms import ALL, ARMS, Arm, Setting
from benchmarks.addax.task import Budget, task_of
from benchmarks.addax.verdict import Pairs
from benchmarks.shared.markdown import human
from hybridopt import Policy, Route, Treatment
from hybridopt.parts import AdamW

pytestmark = pytest.mark.slow

RECIPE = models.Recipe(
    hidden=16,
    layers=2,
    intermediate=32,
    heads=2,
    vocabulary=460,
    sequence=64,
    batch=2,
    steps=3,
    warm_steps=4,
    warm_batch=4,
    warm_reviews=60,
    fewest_words=2,
)
BUDGET = Budget(steps=6, evaluations=3, train=60, validation=20, test=20, threshold=12)
WORDS = ["film", "plot", "actor", "scene", "music", "story"]
QUESTIONS = [*asked.WARM, asked.SHORT, *asked.LONG.values()]
ANSWERS = sorted({answer for _, answers in QUESTIONS for answer in answers})
ASKED = [question for question, _ in QUESTIONS]


def review(draw):
    label = draw.randrange(2)
    words = draw.choices(WORDS, k=draw.randint(1, 4)) + [("dreary", "lovely")[label]]
    return " ".join(words) + " ", label


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    for name in data.PLAIN:
        (folder / name).parent.mkdir(exist_ok=True)
        text = "".join(draw.choices([*(f" {word}" for word in WORDS), *ANSWERS, *ASKED], k=400))
        row = json.dumps({"question": "Is it", "passage": text, "label": True})
        (folder / name).write_text(row if name.endswith("jsonl") else text)
    (folder / "sst2").mkdir()
    for name in data.SST2.values():
        lines = [f"{text}\t{label}" for text, label in (review(draw) for _ in range(150))]
        (folder / "sst2" / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory):
    return cache.ready(folder, RECIPE, lambda steps: lambda: None, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def task(folder, place):
    return task_of(folder, place, RECIPE, BUDGET)


# ---- data


def test_long_texts_have_the_majority_and_the_share_that_were_asked_for():
    pool = [(f"{'ab'[i % 2]}{i}", i % 2) for i in range(40)]
    made = data.bundles(pool, 50, (3, 5), 0.3, seed=0)
    assert sum(label for _, label in made) == 15
    for text, label in made:
        parts = [part[0] for part in text.split()]
        assert 3 <= len(parts) <= 5 and parts.count("ab"[label]) == math.ceil(2 * len(parts) / 3)
    uses = [sum(part == name for text, _ in made for part in text.split()) for name, label in pool if label == 0]
    assert max(uses) - min(uses) <= 1


def test_short_ones_are_balanced_and_the_first_that_the_warm_start_did_not_see(folder, place, task):
    pool = data.reviews(folder, "train", 2)[RECIPE.warm_reviews :]
    short = data.balanced(pool, BUDGET.train // 2)
    assert [label for _, label in short].count(1) * 2 == len(short) == BUDGET.train // 2
    expected = asked.asking(cache.load_tokenizer(place), short, asked.SHORT, RECIPE.sequence)
    found = task.train[torch.arange(len(short))]
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.labels, expected.labels)
    assert len(task.train) == BUDGET.train


def test_examples_part_by_length_and_come_in_an_order_of_the_seed_alone(task):
    there = int(task.train.lengths.median())
    short, long = task.train.up_to(there)
    assert int(short.lengths.max()) == there < int(long.lengths.min())
    assert len(short) + len(long) == len(task.train) and min(len(short), len(long)) > 10
    assert short.ids.shape[1] == int(short.lengths.max())
    first, again, other = (next(task.train.batches(8, seed)).ids for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert task.train.longest(3).lengths.tolist() == sorted(task.train.lengths.tolist())[:-4:-1]
    with pytest.raises(SystemExit, match="fewer than one batch"):
        next(short.batches(1000, 0))


def test_an_answer_of_several_tokens_is_refused(place):
    with pytest.raises(SystemExit, match="answers must be one"):
        asked.word(cache.load_tokenizer(place), " never heard of this")


# ---- model


def test_the_model_is_made_once(folder, place, monkeypatch):
    monkeypatch.setattr(cache, "make", None)
    assert cache.ready(folder, RECIPE, None, place.parent) == place
    assert cache.digest(folder, RECIPE) != cache.digest(folder, replace(RECIPE, steps=4))
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_what_was_trained_is_what_is_loaded(place):
    fresh, loaded = models.network(RECIPE), cache.load(place, RECIPE)
    assert all(not torch.equal(p, q) for p, q in zip(fresh.parameters(), loaded.parameters(), strict=True))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_padding_and_neighbours_do_not_change_an_answer(task):
    batch = task.train[torch.tensor([0, 40, 41])]
    together = models.answer_logits(task.model, batch)
    alone = [models.answer_logits(task.model, task.train[torch.tensor([i])]) for i in (0, 40, 41)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_each_question_of_the_warm_start_has_its_turn(folder, place):
    model, tokenizer = cache.load(place, RECIPE), cache.load_tokenizer(place)
    losses = pretraining.warm_losses(model, tokenizer, data.reviews(folder, "train", 2), RECIPE)
    batches = [next(losses).args[1] for _ in asked.WARM]
    for batch, question in zip(batches, asked.WARM, strict=True):
        assert_asks(tokenizer, batch, question)


@pytest.mark.parametrize("kind", asked.LONG)
def test_long_ones_are_asked_what_the_budget_says(folder, place, kind):
    task = task_of(folder, place, RECIPE, replace(BUDGET, long=kind))
    tokenizer, half = cache.load_tokenizer(place), BUDGET.test // 2
    assert_asks(tokenizer, task.test[torch.arange(half)], asked.SHORT)
    assert_asks(tokenizer, task.test[torch.arange(half, 2 * half)], asked.LONG[kind])


def assert_asks(tokenizer, examples, question):
    """Every example ends in the question, and is answered by its answers."""
    text, answers = question
    rows = zip(examples.ids.tolist(), examples.lengths.tolist(), strict=True)
    assert all(tokenizer.decode(ids[:length]).endswith(text) for ids, length in rows)
    assert examples.answers.tolist() == [[asked.word(tokenizer, answer) for answer in answers]] * len(examples)


# ---- runs


def once(name, task, *setting, seed=0, arm=None):
    return train.run(arm or ARMS[name], Setting(*setting), seed, BUDGET, task)


def accuracies(found):
    return [(point["step"], point["accuracy"], point["loss"]) for point in found["curve"]]


def test_addax_without_probes_is_ip_sgd_on_the_short_ones(task):
    nearly, half = once("addax", task, 0.1, 1e-12), once("addax", task, 0.1, 0.5)
    losses = [[point["loss"] for point in found["curve"]] for found in (nearly, once("ip-sgd-short", task, 0.1))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert half["curve"][-1]["loss"] != pytest.approx(losses[1][-1], rel=1e-3)


def test_checkpointing_keeps_less_and_computes_the_same(task):
    plain, checkpointed = once("ip-sgd", task, 0.1), once("ip-sgd-checkpointing", task, 0.1)
    assert [point[1] for point in accuracies(plain)] == [point[1] for point in accuracies(checkpointed)]
    assert 0 < checkpointed["saved_bytes"] < plain["saved_bytes"] / 3


def test_bytes_are_those_the_methods_are_known_for(task):
    mezo, addax, everything, adamw = (
        once(name, task, 1e-3, ARMS[name].alpha) for name in ("mezo", "addax", "ip-sgd", "adamw")
    )
    assert mezo["saved_bytes"] == 0 < addax["saved_bytes"] < everything["saved_bytes"] == adamw["saved_bytes"]
    assert adamw["state_bytes"] == 2 * adamw["weight_bytes"] and mezo["state_bytes"] == addax["state_bytes"] == 0
    assert adamw["step_bytes"] > everything["step_bytes"] > everything["saved_bytes"]


def test_a_seed_repeats_and_another_does_not(task):
    optimizer = ARMS["mezo"].optimizer(models.network(RECIPE), 1e-2, None, 3)
    assert optimizer.param_groups[0]["seed"] == 3  # of the directions
    first, again, other = (once("mezo", task, 1e-2, seed=seed) for seed in (0, 0, 1))
    assert accuracies(first) == accuracies(again) and accuracies(first) != accuracies(other)


def test_every_arm_learns_in_its_way_from_what_it_may_see(task):
    short, long = task.train.up_to(BUDGET.threshold)
    seen = {name: next(iter(stepping.steps_of(arm, 0, BUDGET, task))) for name, arm in ARMS.items()}
    gradients, probes = seen["addax"]
    assert int(gradients.lengths.max()) <= BUDGET.threshold < int(probes.lengths.min())
    assert (len(gradients), len(probes)) == (4, 6)
    assert seen["mezo"][0] is None and len(seen["mezo"][1]) == 16
    assert seen["ip-sgd"][1] is None and len(list(stepping.steps_of(ARMS["ip-sgd"], 0, BUDGET, task))) == BUDGET.steps
    assert torch.equal(seen["ip-sgd"][0].ids, seen["adamw"][0].ids)


def test_the_weights_that_did_best_are_tested(task, monkeypatch):
    qualities = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(train, "evaluate", lambda *_: {"accuracy": next(qualities), "loss": 0.0})
    model = models.network(RECIPE)
    best = train.Best(model, task)
    for step in range(3):
        torch.nn.init.constant_(model.lm_head.weight, step)
        best.look(step, 0.0)
    monkeypatch.setattr(train, "test", lambda model, *_: float(model.lm_head.weight[0, 0]))
    found = best.result(BUDGET)
    assert found["test"] == 1.0 and found["validation"]["step"] == 1


def test_a_run_that_diverges_ends_early_with_the_weights_it_began_with(task):
    wild = Policy((Route(Treatment(full=AdamW(), lr_scale=1e30)),))
    found = once("adamw", task, 1.0, arm=replace(ARMS["adamw"], options={"policy": wild}))
    assert found["diverged"] and found["steps_done"] < BUDGET.steps
    assert found["test"] == train.test(task.model, task, BUDGET)


# ---- search

TRIED = {Setting(3e-3): (0.7, 0.0), Setting(1e-3): (0.6, 0.0), Setting(1e-2): (0.6, 0.0)}


def test_the_search_goes_beyond_the_edge_then_between():
    arm = Arm("", 3e-3, {})
    assert search.next_settings(arm, {}, 5) == [Setting(3e-3), Setting(1e-3), Setting(1e-2)]
    assert search.next_settings(arm, TRIED, 3) == []
    assert search.next_settings(arm, TRIED, 5) == [Setting(5.5e-3)]
    assert search.next_settings(arm, TRIED | {Setting(1e-2): (0.9, 0.0)}, 5) == [Setting(3e-2)]
    assert search.next_settings(arm, TRIED | {Setting(1e-3): (0.9, 0.0)}, 5) == [Setting(3e-4)]


def test_where_an_arm_mixes_its_alpha_is_searched_for_next():
    arm = Arm("", 3e-3, {}, alpha=1e-2)
    tried = {Setting(lr.lr, 1e-2): found for lr, found in TRIED.items()}
    best = Setting(3e-3, 3e-2)
    assert search.next_settings(arm, tried, 5) == [best]
    assert search.next_settings(arm, tried | {best: (0.8, 0.0)}, 5) == [Setting(3e-3, 1e-1)]
    assert search.next_settings(arm, tried | {best: (0.1, 0.0)}, 5) == [Setting(3e-3, 3e-3)]
    assert search.next_settings(arm, tried | {best: (0.1, 0.0)}, 4) == []


# ---- verdicts


def test_p_is_students():
    assert verdict.student(2.776445, 4) == pytest.approx(0.05, abs=1e-4)
    assert verdict.student(12.7062, 1) == pytest.approx(0.05, abs=1e-4)
    assert verdict.student(0.0, 4) == pytest.approx(1.0)
    found = Pairs([0.01, 0.02, 0.03, -0.01, 0.02])
    assert (found.wins, found.enough) == (4, 4) and found.p == pytest.approx(0.1079, abs=1e-4)
    assert Pairs([0.01]).p == 1.0


def row(tests, accuracies, seconds=10.0, step_bytes=100):
    """A row of two seeds or more: test accuracies, and the same curve of validation for each."""
    curve = [{"cpu_seconds": seconds * i, "accuracy": one, "step": i} for i, one in enumerate(accuracies)]
    return {
        "test": {seed: {"all": found} for seed, found in enumerate(tests)},
        "curves": {seed: curve for seed in range(len(tests))},
        "weight_bytes": 100,
        "state_bytes": 0,
        "step_bytes": step_bytes,
    }


def test_how_much_sooner_is_by_the_seconds_to_the_others_best():
    mezo, fast, never = row([0.5], [0.1, 0.2, 0.6]), row([0.5], [0.1, 0.7], seconds=2.0), row([0.5], [0.1, 0.3])
    assert verdict.speedups(fast, mezo) == [10.0]
    assert verdict.speedups(never, mezo) == [0.0]
    assert verdict.speedups(fast, row([0.5], [0.1, 0.05])) == [1.0]


def test_every_claim_can_be_supported_and_not():
    good, bad = [0.8, 0.81, 0.82, 0.83, 0.81], [0.7, 0.72, 0.71, 0.72, 0.73]
    winner = row(good, [0.1, 0.9], seconds=1.0)
    loser = row(bad, [0.1, 0.2, 0.8], step_bytes=400)
    middle = row([0.75, 0.78, 0.76, 0.78, 0.79], [0.1, 0.2])
    rows = dict.fromkeys(("mezo", "ip-sgd", "ip-sgd-short", "ip-sgd-checkpointing"), loser)
    assert verdict.claims(rows | {"ip-sgd": middle, "addax": winner}).count("| supported |") == 7
    rows = dict.fromkeys(rows, winner)
    assert verdict.claims(rows | {"addax": loser}).count("| **not supported** |") == 7
    assert verdict.claims({"addax": winner}) == ""


# ---- the whole


def whole(folder, place, out, seeds=(0, 1), budget=BUDGET, tries=1):
    return bench.Bench(bench.Job(folder, place, out / "addax.jsonl", RECIPE, budget), list(ARMS), tries, list(seeds))


def measure(one, minutes=math.inf):
    """The lines of the file, one a run, after the bench has run."""
    with ThreadPoolExecutor(1) as pool:
        one.measure(pool, 1, minutes)
    return set(one.job.file.read_text().splitlines()) if one.job.file.exists() else set()


def test_from_text_to_table_and_no_run_twice(folder, place, tmp_path):
    late = whole(folder, place, tmp_path)
    assert measure(late, minutes=0) == set() and not late.failed
    done = measure(whole(folder, place, tmp_path, seeds=[0]))
    assert len(done) == len(ARMS)
    more = measure(whole(folder, place, tmp_path))
    assert len(more) == 2 * len(ARMS) and done < more
    with pytest.raises(ValueError, match="choose another folder"):
        whole(folder, place, tmp_path, budget=replace(BUDGET, steps=7)).wanted("mezo")
    text = tables.publish(search.records_at(tmp_path / "addax.jsonl"))
    lines = [line.split("|") for line in text.splitlines() if line.count("|") == 13]
    assert [cells[7].strip() for cells in lines] == ["steps", "--:", "0", "6", "24", *["6"] * 6]
    written = (tmp_path / "addax.md").read_text()
    assert text.splitlines()[0] in written and "## What is reproduced" in written
    assert all(f"| {arm.label} |" in text for arm in ARMS.values()) and "| zero-shot |" in text
    assert (tmp_path / "addax.png").stat().st_size > 10_000


def test_an_arm_that_raises_is_dropped_and_the_others_go_on(folder, place, tmp_path, monkeypatch):
    monkeypatch.setitem(ALL, "mezo", replace(ARMS["mezo"], options={"policy": "no_such_policy"}))
    one = whole(folder, place, tmp_path, seeds=[0], tries=3)
    one.arms = ["mezo", "ip-sgd-short"]
    made = {(run["arm"], run["lr"], run["seed"]) for run in map(json.loads, measure(one))}
    assert made == {("ip-sgd-short", lr, 0) for lr in (1e-3, 3e-3, 1e-2)}
    assert "no_such_policy" in one.failed["mezo"]


def test_without_records_there_is_no_table(tmp_path):
    with pytest.raises(SystemExit, match="run without --table"):
        tables.publish(search.records_at(tmp_path / "addax.jsonl"))
    assert human(0) == "0 B"
