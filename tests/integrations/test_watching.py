"""What is written of a Trainer's run is what happened: losses, norms, tokens, speed, bytes by kind, and no more."""

import math
import re

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, TrainerCallback

from hybridopt.core.files import plain_json
from hybridopt.core.sizes import human
from hybridopt.integrations.tokens import tokens_in
from hybridopt.integrations.trainer import HybridTrainer
from hybridopt.integrations.watching import watch
from hybridopt.training.report.page import write
from hybridopt.training.watching.log import LogFile, read_log
from hybridopt.training.watching.memory import tensor_map
from support.models import tiny_llama
from support.trainers import arguments

pytestmark = pytest.mark.slow

STEPS = 4
LENGTHS = (3, 5, 7, 8)
EPOCH = sum(LENGTHS)  # tokens of all rows


def rows():
    random = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, 96, (length,), generator=random)} for length in LENGTHS]


def padded(batch):
    ids = [row["input_ids"] for row in batch]
    mask = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True)
    labels = pad_sequence(ids, batch_first=True, padding_value=-100)
    return {"input_ids": pad_sequence(ids, batch_first=True), "attention_mask": mask, "labels": labels}


class Clock:
    """A second goes by with every reading."""

    seconds = 0.0

    def __call__(self):
        self.seconds += 1.0
        return self.seconds


class Shown:
    """A screen that remembers what it is told."""

    def __init__(self):
        self.records, self.steps, self.batches, self.total = [], [], [], None

    def expect(self, total):
        self.total = total

    def show(self, record):
        self.records.append(record)

    def step(self, done):
        self.steps.append(done)

    def evaluating(self, done, total):
        self.batches.append((done, total))


def run(folder, screen=None, resume=None, model=None, callbacks=(), clock=None, **changes):
    data = changes.pop("data", rows())
    mixin = {key: changes.pop(key) for key in ("policy", "policy_options", "optimizer_options") if key in changes}
    settings = {
        "max_steps": STEPS,
        "eval_strategy": "no",
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
    } | changes
    trainer = HybridTrainer(
        tiny_llama() if model is None else model,
        arguments(folder, **settings),
        train_dataset=data,
        eval_dataset=rows(),
        data_collator=padded,
        callbacks=list(callbacks),
        **mixin,
    )
    watching = watch(trainer, LogFile(folder / "log.jsonl"), screen, *([clock] if clock else []))
    trainer.train(resume_from_checkpoint=resume)
    return trainer, watching, read_log(folder / "log.jsonl")


def test_a_run_is_written_as_it_happened(tmp_path):
    screen = Shown()
    trainer, watching, records = run(tmp_path, screen, eval_strategy="steps", eval_steps=2)
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4] == screen.steps
    for record, theirs in zip(steps, [r for r in trainer.state.log_history if "loss" in r], strict=True):
        assert (record["loss"], record["lr"]) == (theirs["loss"], theirs["learning_rate"])
        assert record["grad_norm"] == pytest.approx(float(theirs["grad_norm"]))
        assert record["epoch"] == theirs["epoch"] and "learning_rate" not in record
    assert [r["tokens"] for r in steps] == [EPOCH, 2 * EPOCH, 3 * EPOCH, 4 * EPOCH]
    evaluations = [r for r in records if "eval_loss" in r]
    assert [r["step"] for r in evaluations] == [2, 4] and all("loss" not in r for r in evaluations)
    assert records[-1]["train_loss"] == pytest.approx(sum(r["loss"] for r in steps) / STEPS)
    assert screen.records == records[:-1] and screen.total == STEPS
    assert screen.batches[:1] == [(1, 1)] and len(screen.batches) == 2
    assert not any(isinstance(each, PrinterCallback) for each in trainer.callback_handler.callbacks)


def test_the_page_shows_what_was_written(tmp_path):
    trainer, watching, records = run(tmp_path, eval_strategy="steps", eval_steps=2)
    tensors = tensor_map(trainer.model)
    plan = {"measured": watching.measured, "tensors": tensors, "device": "cpu", "steps": STEPS}
    plain_json.write(tmp_path / "plan.json", plan)
    text = write(tmp_path).read_text()
    lines = re.findall(r'<polyline class="line (\w+)" points="([^"]*)"', text)
    assert [(look, len(points.split())) for look, points in lines] == [
        ("train", STEPS),
        ("eval", 2),
        ("rate", STEPS),
        ("norm", STEPS),
        ("speed", STEPS),
    ]
    assert text.count("<rect") == len(tensors) == len(list(trainer.model.parameters()))
    assert ">finished<" in text and human(watching.measured["state_bytes"]) in text


def test_bytes_by_kind_are_the_plans(tmp_path):
    trainer, watching, records = run(tmp_path, policy="frugal", policy_options={"density": 0.25})
    totals = trainer.model.hybrid.report().totals
    for record in (r for r in records if "loss" in r):
        assert record["gradients_bytes"] == totals.grad_bytes
        assert record["peak_bytes"] >= record["memory_bytes"] > record["weights_bytes"]
    assert watching.measured["state_bytes"] == totals.state_bytes > 0
    assert watching.measured["gradients_bytes"] == totals.grad_bytes
    assert watching.measured["tokens"] == STEPS * EPOCH
    assert 0 < watching.measured["training_seconds"] <= watching.measured["seconds"]
    trainer.tokens_seen.add([{"prompt": "as in GRPO, which counts itself"}])
    trainer.state.num_input_tokens_seen = 7
    assert watching.measured["tokens"] == 7


FUSED = {"optimizer_options": {"release": "fused"}}


def test_fused_gradients_are_counted_one_at_a_time_and_their_norm_is_the_true_one(tmp_path):
    plain = {"policy": "lomo", "gradient_accumulation_steps": 1, "per_device_train_batch_size": 4}
    _, _, usual = run(tmp_path / "usual", **plain)
    trainer, watching, records = run(tmp_path / "fused", **plain, **FUSED)
    largest = max(p.nbytes for p in trainer.model.parameters())
    assert [r["gradients_bytes"] for r in records if "loss" in r] == [largest] * STEPS
    assert {r["gradients_bytes"] for r in usual if "loss" in r} == {sum(p.nbytes for p in trainer.model.parameters())}
    norms = [[r["grad_norm"] for r in found if "loss" in r] for found in (usual, records)]
    assert norms[1] == pytest.approx(norms[0]) and all(norm > 0 for norm in norms[1])
    assert all(not p._backward_hooks for p in trainer.model.parameters())


def test_gradients_that_are_held_for_the_last_pass_are_counted_together(tmp_path):
    trainer, watching, _ = run(tmp_path, policy="lomo", **FUSED)  # two passes a step
    assert watching.measured["gradients_bytes"] == sum(p.nbytes for p in trainer.model.parameters())


def test_probes_count_every_token_once_and_are_in_the_record_of_their_step(tmp_path):
    trainer, watching, records = run(tmp_path, policy="mezo")
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4] and len(records) == STEPS + 1
    assert [r["tokens"] for r in steps] == [EPOCH * n for n in range(1, 5)]
    assert all("probe_loss" in r and "projected_gradient" in r and "grad_norm" not in r for r in steps)
    assert {r["gradients_bytes"] for r in steps} == {0}


def test_a_resumed_run_goes_on_where_the_checkpoint_was(tmp_path):
    _, _, whole = run(tmp_path / "whole", save_strategy="steps", save_steps=2)
    path = tmp_path / "whole" / "checkpoint-2"
    trainer, watching, again = run(tmp_path / "whole", resume=str(path), save_strategy="steps", save_steps=2)
    assert [r["step"] for r in again] == [r["step"] for r in whole] == [1, 2, 3, 4, 4]
    assert [(r["loss"], r["tokens"]) for r in again[:4]] == [(r["loss"], r["tokens"]) for r in whole[:4]]
    assert again[:2] == whole[:2]
    seconds = [r["seconds"] for r in again]
    assert seconds == sorted(seconds) and watching.measured["tokens"] == STEPS * EPOCH


def test_evaluations_are_no_training_time(tmp_path):
    class Slow(TrainerCallback):
        def on_prediction_step(self, *_, **__):
            clock.seconds += 1000.0

        def on_save(self, *_, **__):
            clock.seconds += 1000.0

    clock = Clock()
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    _, watching, records = run(tmp_path, callbacks=[Slow()], clock=clock, **often)
    assert watching.measured["seconds"] > 6000 > 100 > watching.measured["training_seconds"]
    speeds = [r["tokens_per_second"] for r in records if "loss" in r]
    assert len(speeds) == STEPS and all(EPOCH / 10 < speed <= EPOCH for speed in speeds)


class Broken(torch.nn.Module):
    """Its loss is no number from the second step on."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = torch.nn.Linear(4, 4), 0

    def forward(self, input_ids, attention_mask, labels):
        self.calls += 1
        loss = self.inner(torch.ones(4)).sum()
        return {"loss": loss.detach() * math.nan + 0 * loss.nan_to_num() if self.calls > 2 else loss}


def test_a_loss_that_is_no_number_is_told(tmp_path):
    screen = Shown()
    _, _, records = run(tmp_path, screen, model=Broken(), policy="adamw")
    steps = [r for r in records if "loss" in r]
    assert steps[0]["loss"] is not None and steps[1]["loss"] is None and "loss" in steps[1]["nonfinite"]
    assert math.isnan(screen.records[1]["loss"])


def test_tokens_are_those_that_are_no_padding():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ids = torch.zeros(2, 3)
    assert tokens_in({"input_ids": ids, "attention_mask": mask}) == 5
    assert tokens_in({"chosen_input_ids": ids, "chosen_attention_mask": mask, "rejected_attention_mask": mask}) == 10
    assert tokens_in({"input_ids": ids, "position_ids": ids}) == 6
    assert tokens_in({"fo": {"attention_mask": mask}, "zo": {"input_ids": ids}}) == 11
    assert tokens_in([{"prompt": "a"}]) is None and tokens_in({"pixel_values": ids}) is None


def test_the_norms_of_micro_batches_are_those_of_their_mean_losses(tmp_path):
    model, (row, *_) = tiny_llama(), rows()
    model(**padded([row])).loss.backward()
    square = sum(p.grad.square().sum().item() for p in model.parameters())
    model.zero_grad()
    passes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "learning_rate": 0.0}
    _, watching, _ = run(tmp_path, model=model, data=[row] * 4, max_steps=2, max_grad_norm=1e-3, **passes)
    assert watching._noise._squares == {batch: pytest.approx([square] * 2, rel=1e-4) for batch in (1, 3)}
