"""release="fused" under the unchanged transformers Trainer."""

import pytest
import torch
from transformers import Trainer, TrainerCallback

import hybridopt
from hybridopt.integrations.transformers import HybridOptimizerFactory
from support.models import tiny_llama
from support.saved import bits, equal
from support.trainers import LR, STEPS, arguments, data
from support.trainers import wrapped as unseeded

pytestmark = pytest.mark.slow


def wrapped(kind):
    torch.manual_seed(0)  # of the adapters
    return unseeded(kind)


class Watch(TrainerCallback):
    """Bytes of gradients that the Trainer finds before each step, and their true norm after it."""

    def __init__(self):
        self.left, self.norms = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.left.append(sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))

    def on_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.norms.append(optimizer.optimizer.grad_norm.item())


def trainer(model, folder, release, watch=None, resume=False, **changes):
    how = {"lr": LR, "weight_decay": 0.1, "release": release, "clip": changes.pop("clip", None)}
    mode = changes.pop("clip_mode", None)
    return Trainer(
        model,
        arguments(folder, **{"max_grad_norm": 0.0, "eval_strategy": "no"} | changes),
        train_dataset=data(),
        callbacks=[watch] if watch else [],
        optimizer_cls_and_kwargs=(HybridOptimizerFactory, how | ({"clip_mode": mode} if mode else {})),
    )


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", ["full", "lora-nf4"])
def test_the_same_bits_as_accumulate(tmp_path, kind, accumulation):
    """Also with gradient_accumulation_steps: held until the last micro-batch, one update a step."""
    watch = Watch()
    changes = {"gradient_accumulation_steps": accumulation}
    one = trainer(wrapped(kind), tmp_path / "one", "fused", watch, **changes)
    other = trainer(wrapped(kind), tmp_path / "other", "accumulate", **changes)
    for run in (one, other):
        run.train()
    assert equal(bits(one.model), bits(other.model)) and not equal(bits(one.model), bits(wrapped(kind)))
    assert one.optimizer.param_groups[0]["step"] == STEPS
    assert watch.left == [0] * STEPS and min(watch.norms) > 0


def test_clipping_by_the_optimizer_and_resuming(tmp_path):
    options = {"clip": 0.5, "clip_mode": "previous"}
    whole = trainer(wrapped("full"), tmp_path / "whole", "fused", **options)
    whole.train()
    resumed = trainer(wrapped("full"), tmp_path / "resumed", "fused", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert equal(bits(resumed.model), bits(whole.model))
    free = trainer(wrapped("full"), tmp_path / "free", "fused")
    free.train()
    assert not equal(bits(free.model), bits(whole.model))


def test_an_optimizer_made_before(tmp_path):
    """The Trainer's own micro-batches hold, whoever made the optimizer."""
    model, other = wrapped("full"), wrapped("full")
    optimizer = model.hybrid.optimizer(lr=LR, weight_decay=0.1, release="fused")
    settings = arguments(tmp_path / "a", max_grad_norm=0.0, eval_strategy="no")
    Trainer(model, settings, train_dataset=data(), optimizers=(optimizer, None)).train()
    trainer(other, tmp_path / "b", "accumulate").train()
    assert equal(bits(model), bits(other))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "max_grad_norm.*clip=1.0 with clip_mode='previous'.*or clip=None"),
        ({"clip": 1.0}, "clip=1.0 with clip_mode='global'.*measure.*'previous'"),
        ({"clip": 1.0, "clip_mode": "global"}, "clip_mode='global'.*measure"),
    ],
)
def test_clipping_that_the_trainer_cannot_do_is_refused(options, text):
    model = tiny_llama()
    with pytest.raises(hybridopt.HybridOptError, match=text):
        HybridOptimizerFactory()(model, lr=LR, release="fused", **options)
    assert "hybrid" not in vars(model) and not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_fp16_scaling_is_refused(monkeypatch):
    from accelerate.state import AcceleratorState

    monkeypatch.setattr("accelerate.state.is_initialized", lambda: True)
    monkeypatch.setattr(AcceleratorState, "__init__", lambda self: None)
    monkeypatch.setattr(AcceleratorState, "mixed_precision", "fp16")
    with pytest.raises(hybridopt.HybridOptError, match="fp16.*bf16"):
        HybridOptimizerFactory()(tiny_llama(), lr=LR, release="fused", clip=None)


def test_a_loop_of_accelerates_own(tmp_path):
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    models = [wrapped("full"), wrapped("full")]
    rows = torch.stack([row["input_ids"] for row in data()])
    for model, release in zip(models, ("fused", "accumulate"), strict=True):
        made = model.hybrid.optimizer(lr=LR, release=release)
        ready, optimizer, batches = accelerator.prepare(model, made, torch.utils.data.DataLoader(rows, batch_size=4))
        for batch in batches:
            with accelerator.accumulate(ready):
                accelerator.backward(ready(input_ids=batch, labels=batch).loss)
                optimizer.step()
                optimizer.zero_grad()
        assert made.param_groups[0]["step"] == 2
    assert equal(bits(models[0]), bits(models[1]))
