"""The task that was designed for Addax: its texts, arms, model and criteria, on synthetic reviews and passages."""

import json
import random

import pytest
import torch

from benchmarks.addax import arms, buried, cache, data, regime, search, stepping
from benchmarks.addax import bench as benches
from benchmarks.addax import examples as asked
from benchmarks.addax import table as tables
from benchmarks.addax.model import Recipe, network
from benchmarks.addax.task import Budget, task_of

RECIPE = Recipe(hidden=16, layers=1, intermediate=32, heads=2, vocabulary=700, warm_reviews=40, fewest_words=2)
READING = buried.Reading(RECIPE, steps=2, batch=4)
BUDGET = Budget(steps=4, evaluations=2, train=24, validation=8, test=16, long="regret", after=(42, 46), threshold=48)
WORDS = ["river", "castle", "treaty", "engine", "county"]
QUESTIONS = [*asked.WARM, asked.SHORT, asked.LONG["regret"]]
REVIEWS = [(f"film {('dreary', 'lovely')[i % 2]} plot{i}", i % 2) for i in range(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reviews, and passages of which each has a word of its own."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    for name in data.PLAIN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(" ".join(draw.choices(WORDS, k=50)))
    rows = [{"question": "is it", "passage": " ".join([f"P{i}", *draw.choices(WORDS, k=20)])} for i in range(50)]
    (folder / buried.PASSAGES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sst2").mkdir()
    for name in data.SST2.values():
        lines = [f"{text}\t{label}" for text, label in REVIEWS]
        (folder / "sst2" / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def base(folder, tmp_path_factory):
    """A model and its tokenizer, not trained."""
    texts = [text for text, _ in REVIEWS] + [f"{q}{''.join(a)}" * 20 for q, a in QUESTIONS]
    place = tmp_path_factory.mktemp("cache") / f"addax-{cache.digest(folder, RECIPE)}"
    cache.publish(place, network(RECIPE), asked.tokenizer_of([*texts, *buried.passages(folder, "warm")], 700))
    return place


@pytest.fixture(scope="module")
def task(folder, base):
    return task_of(folder, base, RECIPE, BUDGET)


def test_no_two_shares_have_a_passage_in_common(folder):
    shares = [set(buried.passages(folder, share)) for share in buried.SHARES]
    assert len(set.union(*shares)) == sum(map(len, shares)) == 50 and min(map(len, shares)) == 3
    (folder / "few" / "boolq").mkdir(parents=True)
    (folder / "few" / buried.PASSAGES).write_text('{"passage": "One."}\n')
    with pytest.raises(SystemExit, match="too few passages, 1, for a share of its own: train"):
        buried.passages(folder / "few", "train")


def test_a_review_lies_among_words_that_say_nothing_of_it():
    made = buried.buried(REVIEWS, ["river castle", "treaty"], 40, READING, seed=0)
    assert [label for _, label in made] == [0, 1] * 20
    assert len({text[text.index("film") :].split()[2] for text, _ in made}) == 40, "a review came twice"
    for text, label in made:
        words = text.split()
        place = words.index("film")
        assert words[place + 1] == ("dreary", "lovely")[label]
        assert 0 <= place <= 10 and 42 <= len(words) - place - 3 <= 46
        assert set(words[:place] + words[place + 3 :]) <= {"river", "castle", "treaty"}


def test_what_is_cut_has_nothing_of_the_review(task):
    long = task.train.up_to(BUDGET.threshold)[1]
    assert len(long) == 12
    ends, whole = long.cut(BUDGET.threshold), task.train.cut(1000)
    assert torch.equal(whole.ids, task.train.ids) and torch.equal(whole.lengths, task.train.lengths)
    assert ends.lengths.tolist() == [48] * 12 and torch.equal(ends.labels, long.labels)
    for one, end, length in zip(long.ids, ends.ids, long.lengths.tolist(), strict=True):
        assert torch.equal(one[length - 48 : length], end)


def test_ends_hold_no_word_of_a_review(task, base):
    tokenizer = cache.load_tokenizer(base)
    for examples in (task.train, task.validation, task.test):
        ends = examples.up_to(48)[1].cut(48)
        assert not any("film" in tokenizer.decode(row.tolist()) for row in ends.ids)
        assert all(tokenizer.decode(row.tolist()).endswith("i regret") for row in ends.ids)


def test_the_model_learns_from_passages_and_reviews_of_its_own(folder, base, monkeypatch):
    told = []
    monkeypatch.setattr(cache, "make", None)  # the base is there
    place = buried.ready(folder, READING, lambda steps: lambda: told.append(steps), base.parent)
    assert told == [2, 2] and place != base
    assert buried.ready(folder, READING, None, base.parent) == place
    texts = buried.losses(None, cache.load_tokenizer(base), folder, READING)
    batch = next(texts).args[1]
    said = cache.load_tokenizer(base).decode(batch.ids[0, : batch.lengths[0]].tolist())
    assert said.endswith(asked.WARM[0][0]) and len(batch) == 4
    trained, before = cache.load(place, RECIPE), cache.load(base, RECIPE)
    assert not torch.equal(trained.lm_head.weight, before.lm_head.weight)


def test_arms_train_adapters_of_the_rank_and_see_what_they_may(task):
    seen = {name: next(iter(stepping.steps_of(arm, 0, BUDGET, task))) for name, arm in arms.BURIED.items()}
    first, zeroth = seen["buried-addax"]
    assert int(first.lengths.max()) <= 48 < int(zeroth.lengths.min()) and (len(first), len(zeroth)) == (4, 6)
    assert len(seen["buried-mezo"][1]) == 10 and seen["buried-mezo"][0] is None
    assert int(seen["buried-ip-sgd-cut"][0].lengths.max()) == 48
    model = network(RECIPE)
    arms.BURIED["buried-addax"].optimizer(model, 0.1, 0.1, 0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rank = arms.BURIED["buried-addax"].options.get("rank")
    assert all("lora" in name and rank in p.shape for name, p in trained.items()) if rank else len(trained) > 5


def row(everywhere, long=None, short=0.7, step_bytes=100):
    """A row of three seeds: accuracy of all, and of the long ones, each 0.001 further at the next seed."""
    found = {"all": everywhere, "long": everywhere if long is None else long, "short": short}
    test = {seed: {part: value + 0.001 * seed * (seed + 1) for part, value in found.items()} for seed in range(3)}
    return {"test": test, "weight_bytes": 100, "state_bytes": 0, "step_bytes": step_bytes}


def rows(**other):
    """Rows by which everything holds, apart from those given; seeds of Addax differ most."""
    addax = row(0.66)
    addax["test"][2]["all"] += 0.002
    found = {
        "mezo": row(0.6),
        "addax": addax,
        "ip_sgd": row(0.7, long=0.7, step_bytes=400),
        "ip_sgd_short": row(0.6, long=0.5),
        "ip_sgd_cut": row(0.61, long=0.52),
        "ip_sgd_checkpointing": row(0.7, step_bytes=200),
    } | other
    for one in ("ip_sgd", "mezo"):
        found[one]["test"][1]["all"] += 0.0005
        found[one]["test"][1]["long"] += 0.0005
    return {f"buried-{name.replace('_', '-')}": one for name, one in found.items()}


def test_the_regime_is_found_where_everything_holds():
    said = regime.claims(rows())
    assert said.count("| supported |") == 8 and "of the regime, and Addax does there what it should.**" in said
    assert regime.claims({"mezo": row(0.6)}) == ""


def test_what_is_not_run_is_open():
    said = regime.claims({name: one for name, one in rows().items() if name != "buried-mezo"})
    assert said.count("| open |") == 1 and "not run yet: mezo" in said
    assert "The task is of the regime; no claim that is decided failed.**" in said
    one = row(0.7)
    one["test"] = {0: one["test"][0]}
    said = regime.claims(rows(ip_sgd_cut=one))
    assert said.count("| open |") == 2 and "open (and what long ones that were cut lack" in said


@pytest.mark.parametrize(
    "other",
    [
        {"ip_sgd_short": row(0.6, long=0.66)},
        {"ip_sgd_cut": row(0.6, long=0.66)},
        {"ip_sgd": row(0.7, step_bytes=120)},
        {"ip_sgd_checkpointing": row(0.7, step_bytes=120)},
    ],
)
def test_without_a_premise_the_claims_decide_nothing(other):
    said = regime.claims(rows(**other))
    assert said.count("**not supported**") == 1 and "not of the regime" in said


@pytest.mark.parametrize(
    ("other", "lacking"),
    [
        ({"ip_sgd_short": row(0.68, long=0.5)}, "the probes of long texts help"),
        ({"ip_sgd_short": row(0.6, long=0.5, short=0.72)}, "without harm to short texts"),
        ({"ip_sgd_cut": row(0.68, long=0.5)}, "and more than cutting them does"),
        ({"mezo": row(0.68)}, "the gradients of short texts help"),
    ],
)
def test_a_claim_that_does_not_hold_is_named(other, lacking):
    said = regime.claims(rows(**other))
    assert said.count("**not supported**") == 1 and f"not shown: {lacking}: " in said


def test_from_texts_to_the_table(folder, base, tmp_path):
    job = benches.Job(folder, base, tmp_path / "addax_buried.jsonl", RECIPE, BUDGET)
    (run,) = benches.Bench(job, ["buried-addax"], 1, [0]).wanted("buried-addax")
    record = benches.carry_out(run, job)
    for name, arm in arms.BURIED.items():
        job.records.put(record | {"arm": name, "alpha": arm.alpha})
    said = tables.publish(search.records_at(job.file))
    assert all(f"| {arm.label} |" in said for arm in arms.BURIED.values()) and "not of the regime" in said
    written = job.file.with_suffix(".md").read_text()
    assert "Addax on a task designed for it" in written and "42 to 46 of them behind it" in written
