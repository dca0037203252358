"""Where gradients are freed before a loop can clip them, it says so before anything is trained, or clips truly."""

import copy
import re

import pytest
import torch
from transformers import Trainer

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.integrations.trainer import HybridTrainer
from hybridopt.integrations.transformers import HybridOptimizerFactory
from hybridopt.optimizer.gradients.known_norm import KnownNorm
from support.models import tiny_llama
from support.saved import bits, equal
from support.trainers import LR, arguments, data, wrapped

pytestmark = pytest.mark.slow

TEXT = r"release='fused' uses each gradient before the loop can clip by max_grad_norm=0.5.*clip=1.0 with clip_mode"


def settings(folder, **changes):
    return arguments(folder, **{"eval_strategy": "no", "save_strategy": "no", "max_steps": 3} | changes)


class Mine(HybridTrainer):
    """Somebody's subclass."""


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", [Trainer, HybridTrainer, Mine])
def test_an_optimizer_that_is_given_is_refused_before_anything_is_trained(tmp_path, kind, accumulation):
    model = wrapped("full")
    before = bits(model)
    given = (model.hybrid.optimizer(lr=LR, release="fused"), None)
    args = settings(tmp_path, gradient_accumulation_steps=accumulation)
    with pytest.raises(HybridOptError, match=TEXT):
        kind(model, args, train_dataset=data(), optimizers=given).train()
    assert equal(bits(model), before)


def test_the_bare_optimizer_and_torchs_schedule(tmp_path):
    model = tiny_llama()
    optimizer = HybridOptimizer(model.named_parameters(), lr=LR, policy="adalomo", release="fused")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with pytest.raises(HybridOptError, match=TEXT):
        Trainer(model, settings(tmp_path), train_dataset=data(), optimizers=(optimizer, schedule)).train()


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"max_grad_norm": 0.0}),
        ({"clip": float("inf")}, {}),
        ({"clip": 0.5, "clip_mode": "previous"}, {}),
        ({"clip": 0.5, "clip_mode": "tensor"}, {}),
        ({"release": "accumulate"}, {}),
    ],
)
def test_what_clips_itself_or_is_told_not_to_trains(tmp_path, options, changes):
    model = wrapped("full")
    before = bits(model)
    given = (model.hybrid.optimizer(**{"lr": LR, "release": "fused"} | options), None)
    Trainer(model, settings(tmp_path, **changes), train_dataset=data(), optimizers=given).train()
    assert not equal(bits(model), before)


def test_the_factory_that_was_told_is_not_asked_again(tmp_path):
    how = {"lr": LR, "release": "fused", "clip": None}
    Trainer(
        wrapped("full"),
        settings(tmp_path),
        train_dataset=data(),
        optimizer_cls_and_kwargs=(HybridOptimizerFactory, how),
    ).train()
    options = {"release": "fused", "clip": None}
    HybridTrainer(wrapped("full"), settings(tmp_path), train_dataset=data(), optimizer_options=options).train()


def test_a_trainer_of_another_optimizer_says_nothing_about_this_one(tmp_path):
    """Neither one that is still there from before, nor one that could not be made."""
    model = wrapped("full")
    other = Trainer(model, settings(tmp_path), train_dataset=data())
    other.create_optimizer()
    half = Trainer.__new__(Trainer)
    optimizer = model.hybrid.optimizer(lr=LR, release="fused")
    row = torch.stack([one["input_ids"] for one in data(2)])
    model(input_ids=row, labels=row).loss.backward()
    optimizer.step()
    assert other.args.max_grad_norm and half is not None and optimizer.param_groups[0]["step"] == 1


def norms(run):
    return [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]


def test_a_hybrid_trainer_logs_the_true_norm(tmp_path):
    def run(release, **options):
        options = {"release": release} | options
        made = HybridTrainer(
            copy.deepcopy(wrapped("full")),
            settings(tmp_path, max_grad_norm=0.0),
            train_dataset=data(),
            optimizer_options=options,
        )
        made.train()
        return made

    fused, wanted = run("fused"), run("accumulate")
    assert len(norms(fused)) == 3 and norms(fused) == pytest.approx(norms(wanted), rel=1e-4)
    probes = HybridTrainer(tiny_llama(), settings(tmp_path, max_grad_norm=0.0), train_dataset=data(), policy="mezo")
    probes.train()
    assert norms(probes) == []


def test_a_gradient_scaler_of_an_own_loop_is_refused():
    model = hybridopt.wrap(torch.nn.Sequential(torch.nn.Linear(4, 4)), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=LR, release="fused")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(2, 4)).square().mean()).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with pytest.raises(HybridOptError, match=re.escape("GradScaler")):
        scaler.step(optimizer)


def test_what_an_own_loop_clips_itself():
    """`hold` keeps gradients, so torch's clipping finds all of them; and the optimizer's own is the same."""
    weights = []
    for own in (True, False):
        torch.manual_seed(0)
        model = hybridopt.wrap(torch.nn.Sequential(torch.nn.Linear(4, 4)), policy="sgd")
        optimizer = model.hybrid.optimizer(lr=LR, release="fused", clip=0.1 if own else None)
        loss = model(torch.ones(2, 4)).square().mean()
        if own:
            optimizer.measure(loss)
            loss.backward()
        else:
            with optimizer.hold():
                loss.backward()
            assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1
        optimizer.step()
        weights.append(bits(model))
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])


@pytest.mark.parametrize("most", [0.5, 0.0])
def test_what_was_read_for_the_norm_is_not_read_once_more(tmp_path, most, monkeypatch):
    """The Trainer works the norm out, to clip or to log it; steps trust it."""
    found, finite = [], KnownNorm.finite

    def seen(self, work):
        found.append(finite(self, work))
        return found[-1]

    monkeypatch.setattr(KnownNorm, "finite", seen)
    trainer = HybridTrainer(tiny_llama(), settings(tmp_path, max_grad_norm=most), policy="adamw", train_dataset=data())
    trainer.train()
    assert found == [True] * 3


@pytest.mark.parametrize("most", [0.5, 0.0])
def test_parameters_beside_the_model_s_are_not_in_its_norm(tmp_path, most):
    """Such as those of a loss: the Trainer has not read their gradients, so steps do."""
    model, scale = tiny_llama(), torch.nn.Parameter(torch.ones(()))
    optimizer = HybridOptimizer([*model.named_parameters(), ("scale", scale)], lr=LR, policy="adamw")
    trainer = HybridTrainer(
        model,
        settings(tmp_path, max_grad_norm=most),
        train_dataset=data(),
        optimizers=(optimizer, None),
        compute_loss_func=lambda out, labels, **_: out.logits.mean() + scale * float("inf"),
    )
    before = bits(model)
    with pytest.raises(HybridOptError, match="'scale' is not finite at step 0"):
        trainer.train()
    assert equal(bits(model), before) and scale.item() == 1
