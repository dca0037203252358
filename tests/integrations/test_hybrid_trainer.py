"""HybridTrainer: every policy under the transformers Trainer, with its loop, its log and its checkpoints."""

import inspect
import json
import os
import warnings
from contextlib import closing
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

import hybridopt
from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.integrations.addax.assignment import Assignment
from hybridopt.integrations.addax.lengths import Halves
from hybridopt.integrations.trainer import FILE, HybridTrainer, HybridTrainerMixin
from hybridopt.parts.rules.sgd import SGD
from hybridopt.parts.sources.spsa import SPSA
from hybridopt.parts.splits.empty import Empty
from support.models import tiny_bert, tiny_llama
from support.ranks import Ranks
from support.saved import bits, equal

pytestmark = pytest.mark.slow

STEPS = 5
MIXED = Policy((Route(Treatment(source=SPSA(), free=SGD(), split=Empty()), role="norm"), Route(Treatment())))
ADDAX = {"policy": "addax", "policy_options": {"alpha": 1e-2}, "learning_rate": 2e-2}
RUNS = {
    "mezo": {"policy": "mezo", "learning_rate": 3e-3},
    "addax by length": ADDAX | {"assignment": Halves(16, 3, 4)},
    "addax without assignment": ADDAX | {"assignment": Halves(None, 3, 4)},
    "addax on one batch": ADDAX,
    "addax fused": ADDAX | {"assignment": Halves(16, 3, 4), "optimizer_options": {"release": "fused"}},
    "adamw beside spsa": {"policy": MIXED, "learning_rate": 1e-3},
    "frugal": {"policy": "frugal", "policy_options": {"density": 0.5, "update_gap": 2}, "learning_rate": 1e-2},
    "adafrugal": {"policy": "adafrugal", "policy_options": {"update_gap": 2, "threshold": 1.0}, "learning_rate": 1e-2},
    "lomo": {"policy": "lomo", "learning_rate": 1e-1, "optimizer_options": {"release": "fused"}},
}
PROBING = [name for name in RUNS if name not in ("frugal", "adafrugal", "lomo")]


def rows(count=24):
    random = torch.Generator().manual_seed(1)
    starts = torch.randint(40, (count,), generator=random).tolist()
    texts = [(torch.arange(6 + i * 7 % 26) + start) % 40 + 3 for i, start in enumerate(starts)]
    return [{"input_ids": text, "labels": text.clone()} for text in texts]


def padded(rows):
    return {
        key: pad_sequence([row[key] for row in rows], batch_first=True, padding_value=value)
        for key, value in (("input_ids", 0), ("labels", -100))
        if key in rows[0]
    }


def trainer(folder, model=None, kind=HybridTrainer, data=None, **changes):
    """A trainer; of `changes`, those that TrainingArguments knows go there."""
    known = inspect.signature(TrainingArguments).parameters
    settings = dict(
        output_dir=str(folder),
        max_steps=STEPS,
        lr_scheduler_type="linear",
        per_device_train_batch_size=4,
        max_grad_norm=0,
        save_steps=3,
        logging_steps=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    settings |= {key: changes.pop(key) for key in list(changes) if key in known}
    return kind(
        tiny_llama() if model is None else model,
        TrainingArguments(**settings),
        train_dataset=rows() if data is None else data,
        eval_dataset=rows(4),
        data_collator=padded,
        **changes,
    )


def logged(run, key):
    return [entry[key] for entry in run.state.log_history if key in entry]


def test_windows_longer_than_the_run_are_told_when_it_begins(tmp_path):
    for gap, told in ((200, 1), (2, 0)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trainer(tmp_path, save_strategy="no", policy="frugal", policy_options={"update_gap": gap}).train()
        assert sum(f"update_gap={gap}: in {STEPS} steps" in str(w.message) for w in said) == told


@pytest.mark.parametrize("name", RUNS)
def test_the_loss_falls_and_the_log_shows_it(name, tmp_path):
    run = trainer(tmp_path, max_steps=24, save_strategy="no", logging_steps=4, **RUNS[name])
    run.train()
    losses = logged(run, "loss")
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.03
    assert len(logged(run, "projected_gradient")) == len(logged(run, "probe_loss")) == (6 if name in PROBING else 0)
    assert run.optimizer.param_groups[0]["step"] == 24


@pytest.mark.parametrize(
    ("name", "accumulation"), [*((name, 1) for name in RUNS), ("mezo", 2), ("addax by length", 2), ("addax fused", 2)]
)
def test_a_resumed_run_ends_in_the_bits_of_an_uninterrupted_one(name, accumulation, tmp_path):
    """The checkpoint is amid an epoch, which has 6 batches or a few more."""
    options = RUNS[name] | {"gradient_accumulation_steps": accumulation}
    whole, resumed = trainer(tmp_path / "whole", **options), trainer(tmp_path / "resumed", **options)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert equal(bits(resumed.model), bits(whole.model))
    assert equal(resumed.optimizer.state_dict(), whole.optimizer.state_dict())
    assert resumed.state.log_history[:-1] == whole.state.log_history[:-1]
    assert not equal(bits(whole.model), bits(tiny_llama()))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_is_the_plain_loop(accumulation, tmp_path):
    """The same rows, probed and stepped by hand, give the same bits."""
    data = rows(8)
    options = {"save_strategy": "no", "max_steps": 2, "lr_scheduler_type": "constant", "seed": 3}
    options |= {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 8 // accumulation}
    seen = []

    class Spy(HybridTrainer):
        def training_step(self, model, inputs, *rest):
            seen.append(inputs)
            return super().training_step(model, inputs, *rest)

    run = trainer(tmp_path, kind=Spy, data=data, policy="mezo", learning_rate=1e-3, **options)
    run.train()
    model = hybridopt.wrap(tiny_llama(), policy="mezo", seed=3)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    slopes, losses = [], []
    for step in range(2):
        batches = seen[step * accumulation : (step + 1) * accumulation]
        losses.append(optimizer.probe([lambda b=batch: model(**b).loss for batch in batches]))
        optimizer.step()
        slopes.append(optimizer.projected_gradient)
    assert equal(bits(run.model), bits(model))
    assert logged(run, "projected_gradient") == slopes
    assert logged(run, "probe_loss") == pytest.approx(losses) and logged(run, "loss") == pytest.approx(losses)


class Own(HybridTrainerMixin, Trainer):
    """A Trainer with its own loss, which takes the inputs apart, and a record of what it was called with."""

    def __init__(self, *args, **kwargs):
        self.calls = []
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        if model.training:
            self.calls.append((torch.is_grad_enabled(), int((labels >= 0).sum(1).min()), tuple(labels.shape)))
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return (loss, logits) if return_outputs else loss


@pytest.mark.parametrize("accumulation", [1, 2])
def test_another_trainers_loss_is_probed_on_long_rows_before_the_gradient_on_short_ones(accumulation, tmp_path):
    options = ADDAX | {"assignment": Halves(16, 3, 4), "gradient_accumulation_steps": accumulation}
    run = trainer(tmp_path, kind=Own, max_steps=4, save_strategy="no", **options)
    run.train()
    assert [gradient for gradient, *_ in run.calls] == [False, False, True] * 4 * accumulation
    for gradient, shortest, (batch, longest) in run.calls:
        assert (batch, longest <= 16, shortest <= 16) == ((3, True, True) if gradient else (4, False, False))
    assert run.calls[0][2] == run.calls[1][2]
    losses = logged(run, "loss")
    assert all(0 < loss < 8 for loss in losses) and losses != logged(run, "probe_loss")


def test_probes_are_in_training_mode_also_after_an_evaluation(tmp_path):
    modes = []

    class Spy(HybridTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **rest):
            modes.append((return_outputs, model.training))
            return super().compute_loss(model, inputs, return_outputs, **rest)

    run = trainer(tmp_path, tiny_llama().eval(), kind=Spy, eval_strategy="steps", eval_steps=2, **RUNS["mezo"])
    run.train()
    assert modes.count((False, True)) == 2 * STEPS and modes.count((True, False)) == 3
    assert len(modes) == 2 * STEPS + 3 and len(logged(run, "eval_loss")) == 3


def test_rates_decay_and_seed_are_the_arguments_and_a_wrapped_model_keeps_its_policy(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="mezo", seed=5)
    run = trainer(tmp_path, model, learning_rate=1e-4, weight_decay=0.25, seed=9)
    group = run.create_optimizer().param_groups[0]
    assert (group["lr"], group["seed"]) == (1e-4, 5)
    assert {g["weight_decay"] for g in run.optimizer.param_groups} <= {0.25, 0.0}
    bare = trainer(tmp_path, policy="mezo", learning_rate=1e-4, seed=9)
    assert bare.create_optimizer().param_groups[0]["seed"] == 9
    own = trainer(tmp_path, policy="addax", policy_options={"zo_lr": 1e-5, "fo_lr": 3e-3})
    assert own.create_optimizer().param_groups[0]["lr"] == 1e-5 + 3e-3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"density": 0.5}, "density=0.5 is none of the Trainer's; give policy_options={'density': 0.5}"),
        ({"clip": 1.0}, "clip=1.0 is none of the Trainer's; give optimizer_options={'clip': 1.0}"),
        ({"policy_options": {"rank": 64}}, "frugal has no option 'rank'.*density"),
        ({"optimizer_options": {"max_grad_norm": 1.0}}, "max_grad_norm.*clip"),
    ],
)
def test_options_in_the_wrong_place_are_sent_to_the_right_one(given, words, tmp_path):
    with pytest.raises(HybridOptError, match=words):
        trainer(tmp_path, **given).create_optimizer()


@pytest.mark.parametrize(
    "asked", [{"optim": "adafactor"}, {"optim": "sgd"}, {"optim_args": "density=0.5"}, {"adam_beta1": 0.8}]
)
def test_arguments_of_the_trainers_own_optimizer_are_refused(asked, tmp_path):
    (key,) = asked
    run = trainer(tmp_path, policy="frugal", **asked)
    with pytest.raises(HybridOptError, match=f"{key}={asked[key]!r} is about.*leave it out.*policy_options"):
        run.create_optimizer()
    assert "hybrid" not in vars(run.model) and run.optimizer is None
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    given = model.hybrid.optimizer(lr=1e-3)  # then the Trainer does not read them either
    assert trainer(tmp_path, model, optimizers=(given, None), **asked).create_optimizer() is given


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_adapters_are_trained_by_probes(quantization, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear")
    model = hybridopt.wrap(tiny_llama(), policy="mezo", eps=1e-2, peft_config=config, quantization=quantization)
    before = bits(model)
    run = trainer(tmp_path, model, learning_rate=1e-2, max_steps=3)
    run.train()
    after = bits(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)


def test_an_optimizer_that_was_made_before_is_used(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    run = trainer(tmp_path, model, optimizers=(optimizer, None), max_steps=2)
    run.train()
    assert run.optimizer.optimizer is optimizer and optimizer.param_groups[0]["step"] == 2
    plain = tiny_llama()
    run = trainer(tmp_path, plain, optimizers=(torch.optim.SGD(plain.parameters(), 0.1), None), max_steps=2)
    run.train()
    assert not equal(bits(plain), bits(tiny_llama()))


# ---- an assignment that is chosen


def test_a_budget_becomes_an_assignment_that_is_printed_kept_and_taken_again(tmp_path, capsys, monkeypatch):
    options = ADDAX | {"max_steps": 2, "save_strategy": "no"}
    run = trainer(tmp_path, assignment="1.3MiB", **options)
    run.train()
    chosen = run.assignment
    assert str(chosen) in capsys.readouterr().out
    assert 6 < chosen.threshold < 31 and chosen.fo_batch == 4
    assert Assignment.load(tmp_path / FILE) == chosen
    monkeypatch.setattr("hybridopt.integrations.trainer.measure_rows", None)
    again = trainer(tmp_path, assignment="1.3MiB", **options)
    again.train()
    assert again.assignment == chosen
    changes = {"assignment": "1.4MiB"}, {"data": rows(20)}, {"optimizer_options": {"release": "fused"}}
    for change in (*changes, {"model": tiny_llama(hidden=48)}):
        with pytest.raises(TypeError, match="NoneType"):
            trainer(tmp_path, **{"assignment": "1.3MiB"} | options | change).train()


def test_gradients_that_stay_alive_count(tmp_path):
    budgets = {}
    for name, options in (
        ("fused", {"optimizer_options": {"release": "fused"}}),
        ("kept", {}),
        ("accumulated", {"gradient_accumulation_steps": 2}),
    ):
        run = trainer(tmp_path / name, assignment="3MiB", max_steps=1, **ADDAX | options)
        run.train()
        budgets[name] = run.assignment.all_bytes, run.assignment.zo_bytes // run.assignment.zo_batch
    trained = sum(p.nbytes for p in tiny_llama().parameters())
    largest = max(p.nbytes for p in tiny_llama().parameters())
    assert budgets["kept"][0] - budgets["fused"][0] == trained - largest
    assert budgets["accumulated"][0] == budgets["kept"][0]
    assert budgets["accumulated"][1] - budgets["kept"][1] == pytest.approx(trained / 6, abs=1)


# ---- what is refused


def world(attribute, value):
    def change(run, monkeypatch):
        monkeypatch.setattr(type(run.args), attribute, property(lambda self: value))

    return change


def sharded(attribute):
    return lambda run, _: setattr(run, attribute, True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (world("n_gpu", 2), "2 GPUs in one process would hold unshifted copies.*torchrun.*CUDA_VISIBLE_DEVICES"),
        (lambda run, _: setattr(run.args, "fp16", True), "fp16=True scales losses.*bf16=True"),
        (sharded("is_deepspeed_enabled"), "DeepSpeed.*train without it"),
    ],
)
def test_probes_where_they_would_go_wrong_are_refused_and_nothing_is_wrapped(change, text, tmp_path, monkeypatch):
    run = trainer(tmp_path, policy="mezo")
    change(run, monkeypatch)
    with pytest.raises(HybridOptError, match=text):
        run.create_optimizer()
    assert "hybrid" not in vars(run.model) and run.optimizer is None
    first_order = trainer(tmp_path, policy="adamw")
    change(first_order, monkeypatch)
    first_order.create_optimizer()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"policy": "mezo", "max_grad_norm": 1.0}, r"max_grad_norm=1.0 finds no gradients.*max_grad_norm=0"),
        (
            ADDAX | {"max_grad_norm": 1.0, "optimizer_options": {"release": "fused", "clip": None}},
            "max_grad_norm=1.0 finds no gradients to clip",
        ),
        ({"policy": "mezo", "assignment": Halves(16)}, "the policy takes no gradients; leave assignment out"),
        ({"policy": "adamw", "assignment": Halves(16)}, "the policy takes no probes; leave assignment out"),
        (ADDAX | {"assignment": Halves(40)}, "threshold=40 leaves no rows for the zeroth-order half"),
        (ADDAX | {"assignment": "100KiB"}, "bytes .* are missing"),
        (ADDAX | {"assignment": "free"}, "free memory of a GPU, and the model is on cpu"),
        (ADDAX | {"lengths": [1]}, "lengths are for assignment"),
        (ADDAX | {"assignment": Halves(16), "lengths": [1]}, "lengths has 1 entries, and the data set 24 rows"),
        ({"policy": "mezo", "policy_options": {"epsilon": 1}}, "no option 'epsilon'"),
        (
            {"policy": "mezo", "optimizers": (torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), None)},
            "policy='mezo' and its options.*so does the optimizer that is given",
        ),
    ],
)
def test_contradictions_are_named_before_anything_is_trained(options, text, tmp_path):
    model = tiny_llama()
    with pytest.raises(HybridOptError, match=text):
        trainer(tmp_path, model, **options).train()
    assert equal(bits(model), bits(tiny_llama())) and "hybrid" not in vars(model)


def test_clipping_stays_the_trainers_where_there_are_gradients(tmp_path):
    run = trainer(tmp_path, max_grad_norm=0.1, max_steps=2, **ADDAX)
    run.train()
    assert min(logged(run, "grad_norm")) > 0.1
    free = trainer(tmp_path / "free", max_steps=2, **ADDAX)
    free.train()
    assert not equal(bits(run.model), bits(free.model))


def test_a_kept_choice_that_was_damaged_is_refused(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"threshold": 1}))
    with pytest.raises(HybridOptError, match="missing"):
        trainer(tmp_path, assignment="2MiB", **ADDAX).train()


def test_a_classifier_without_labels_to_count(tmp_path):
    data = [{"input_ids": row["input_ids"], "labels": torch.tensor(i % 2)} for i, row in enumerate(rows())]

    def collate(rows):
        return {
            "input_ids": padded([{"input_ids": r["input_ids"], "labels": r["input_ids"]} for r in rows])["input_ids"],
            "labels": torch.stack([row["labels"] for row in rows]),
        }

    run = trainer(tmp_path, tiny_bert(), data=data, **ADDAX | {"assignment": "4MiB", "max_steps": 2})
    run.data_collator = collate
    run.train()
    assert len(logged(run, "projected_gradient")) == 2 and Path(tmp_path / FILE).exists()


# ---- several processes

SHARED = ADDAX | {"assignment": "1.4MiB", "data": rows(64), "max_steps": 3, "save_steps": 2}


def trained_by_two(folder):
    rank = torch.distributed.get_rank()
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # asked for, and not used: they have met
    run, resumed = (trainer(Path(folder) / "shared", ddp_backend="gloo", **SHARED) for _ in range(2))
    run.train()
    resumed.train(resume_from_checkpoint=str(Path(folder) / "shared" / "checkpoint-2"))
    assert equal(bits(resumed.model), bits(run.model))
    torch.save((bits(run.model), logged(run, "projected_gradient")), Path(folder) / f"{rank}.pt")


def test_two_processes_train_as_one_with_two_micro_batches(tmp_path):
    with closing(Ranks(2)) as ranks:
        ranks.run(trained_by_two, str(tmp_path))
    (one, slopes), (other, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert equal(one, other)
    options = SHARED | {"assignment": Assignment.load(tmp_path / "shared" / FILE), "gradient_accumulation_steps": 2}
    alone = trainer(tmp_path / "alone", **options)
    alone.train()
    assert logged(alone, "projected_gradient") == pytest.approx(slopes, rel=1e-2, abs=1e-2)
    for name, value in bits(alone.model).items():
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-4)


def test_supervised_fine_tuning_of_trl_resumes(tmp_path):
    import datasets
    import trl
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    class Tuner(HybridTrainerMixin, trl.SFTTrainer):
        pass

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w2", unk_token="w0")
    data = datasets.Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in rows()])
    for name, options in {
        "mezo": RUNS["mezo"],
        "addax": ADDAX | {"assignment": "6MiB"},
        "frugal": RUNS["frugal"],
    }.items():
        settings = trl.SFTConfig(
            str(tmp_path / name),
            learning_rate=options["learning_rate"],
            max_steps=20,
            max_grad_norm=0,
            logging_steps=5,
            save_steps=10,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        own = {key: value for key, value in options.items() if key != "learning_rate"}

        def tuner(settings=settings, own=own):
            return Tuner(tiny_llama(), args=settings, train_dataset=data, processing_class=tokenizer, **own)

        run, resumed = tuner(), tuner()
        run.train()
        assert logged(run, "loss")[-1] < logged(run, "loss")[0]
        assert len(logged(run, "projected_gradient")) == (0 if name == "frugal" else 4)
        resumed.train(resume_from_checkpoint=str(tmp_path / name / "checkpoint-10"))
        assert equal(bits(resumed.model), bits(run.model))
