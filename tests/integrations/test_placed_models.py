"""Trainers of others, and what they do beside training, with a model whose layers rest elsewhere."""

import warnings

import pytest
import torch
import trl
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer

import hybridopt
from hybridopt import HybridOptError
from hybridopt.integrations.trainer import HybridTrainer, HybridTrainerMixin
from hybridopt.model.placement.placed import placed
from support.models import batch
from support.placed import WAYS, adapted, differences, model_at, train
from support.saved import bits, equal
from support.trainers import arguments, data
from support.trl_tasks import text, tokenizer

pytestmark = pytest.mark.slow


class Tuner(HybridTrainerMixin, trl.SFTTrainer):
    pass


def settings(path, **changes):
    few = {"max_steps": 2, "eval_steps": 1, "save_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0}
    return arguments(path, **few | {"max_grad_norm": 0.5} | changes)


def by_trainer(model, path):
    optimizer = model.hybrid.optimizer(lr=1e-2)
    return Trainer(model, settings(path), train_dataset=data(), eval_dataset=data(4), optimizers=(optimizer, None))


def by_hybrid_trainer(model, path):
    workers = settings(path, dataloader_num_workers=1, gradient_checkpointing=True)
    return HybridTrainer(model, workers, train_dataset=data(), eval_dataset=data(4))


def by_fused(model, path):
    once = settings(path, gradient_accumulation_steps=1, max_grad_norm=0)
    options = {"release": "fused", "clip": 0.5, "clip_mode": "tensor"}
    return HybridTrainer(model, once, train_dataset=data(), eval_dataset=data(4), optimizer_options=options)


def by_trl(model, path):
    rows = Dataset.from_dict({"text": [text(5 * i) for i in range(8)]})
    known = {
        "output_dir": str(path),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "report_to": "none",
        "bf16": False,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        "max_length": 16,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    return Tuner(model, trl.SFTConfig(**known), train_dataset=rows, processing_class=tokenizer())


TRAINERS = (by_trainer, by_hybrid_trainer, by_fused, by_trl)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What comes of a resident model: adapters, and losses of the log."""
    return {made: outcome(made, "resident", tmp_path_factory.mktemp("resident")) for made in TRAINERS}


def outcome(made, way, path):
    run = made(adapted(model_at(way)), path)
    torch.manual_seed(0)
    run.train()
    log = [
        {k: v for k, v in entry.items() if k in ("loss", "eval_loss", "grad_norm")} for entry in run.state.log_history
    ]
    return run, {n: p.detach().clone() for n, p in run.model.named_parameters() if "lora_" in n}, log


@pytest.mark.parametrize(("made", "way"), zip(TRAINERS, WAYS * 2, strict=True))
def test_trainers_end_in_the_bits_of_a_resident_model(made, way, expected, tmp_path):
    run, adapters, log = outcome(made, way, tmp_path)
    _, theirs, told = expected[made]
    assert log == told and equal(adapters, theirs)
    assert placed(run.model) is not None and len(placed(run.model).streamer.near) <= 2


@pytest.mark.parametrize("way", WAYS[:1])
def test_adapters_are_saved_by_peft_and_by_the_strategy(way, tmp_path):
    model = adapted(model_at(way))
    train(model, 1)
    model.save_pretrained(tmp_path / "peft")
    model.hybrid.save_pretrained(tmp_path / "hybrid")
    x = batch(model)
    expected = model.eval()(**x).logits
    theirs = PeftModel.from_pretrained(model_at(way), tmp_path / "peft")
    ours = hybridopt.from_pretrained(model_at("resident"), tmp_path / "hybrid")
    assert placed(theirs) is not None
    assert torch.equal(theirs.eval()(**x).logits, expected) and torch.equal(ours.eval()(**x).logits, expected)


@pytest.mark.parametrize("way", WAYS[1:])
def test_accelerate_prepares_a_placed_model(way):
    found = []
    for each in ("resident", way):
        model = adapted(model_at(each))
        optimizer = model.hybrid.optimizer(lr=1e-2)
        accelerator = Accelerator(cpu=True)
        model, optimizer = accelerator.prepare(model, optimizer)
        for step in range(2):
            accelerator.backward(model(**batch(model, 2, step)).loss)
            optimizer.step()
            optimizer.zero_grad()
        found.append(bits(model))
    assert equal(
        {n: x for n, x in found[0].items() if "lora" in n}, {n: x for n, x in found[1].items() if "lora" in n}
    )


@pytest.mark.parametrize("way", WAYS[:1])
def test_losses_in_chunks(way):
    found = []
    for each in ("resident", way):
        model = adapted(model_at(each))
        with hybridopt.chunked_loss(model, 4):
            found.append(train(model, 2))
    assert not differences(*found)


@pytest.mark.parametrize("way", WAYS[1:])
def test_held_and_measured_gradients_of_the_fused_release(way):
    found = []
    for each in ("resident", way):
        model = adapted(model_at(each))
        optimizer = model.hybrid.optimizer(lr=1e-2, release="fused", clip=0.1)
        with optimizer.hold():
            model(**batch(model, 2, 0)).loss.backward()
        loss = model(**batch(model, 2, 1)).loss
        optimizer.measure(loss)
        loss.backward()
        optimizer.step()
        adapters = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}
        found.append(adapters | {"norm": torch.as_tensor(optimizer.grad_norm)})
    assert equal(*found)


@pytest.mark.parametrize("way", WAYS)
def test_whole_models_are_saved_by_transformers(way, tmp_path):
    model = model_at(way)
    model(**batch(model))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert equal(bits(again), bits(model_at("resident")))


def test_a_trainer_on_another_device_is_refused_before_anything_is_moved():
    model = adapted(model_at("mapped"))
    with pytest.raises(HybridOptError, match="cannot go to 'meta'"):
        model.to("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(model, 1).losses
