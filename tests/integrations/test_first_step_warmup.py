"""Schedules of `hybridopt train` are those of transformers, but that the first step has a rate."""

import io
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType

from hybridopt.integrations.transformers.warmup import FirstStepCounts, FirstStepWarmup
from hybridopt.training.config.choices import SCHEDULES

LR = 0.5


class Plain:
    """As much of a Trainer as makes schedules."""

    create_scheduler = Trainer.create_scheduler

    def __init__(self, kind, warmup):
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR)
        self.lr_scheduler, self._created_lr_scheduler = None, False
        self.args = SimpleNamespace(lr_scheduler_type=SchedulerType(kind), lr_scheduler_kwargs={}, warmup_steps=warmup)
        self.args.get_warmup_steps = lambda steps: TrainingArguments.get_warmup_steps(self.args, steps)

    def rates(self, steps, count):
        """Return the rates of so many steps from here on, of a run of `steps`."""
        schedule, found = self.create_scheduler(steps), []
        for _ in range(count):
            found.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            schedule.step()
        return found


class Early(FirstStepCounts, Plain):
    pass


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_rate_rises_from_the_first_step_and_is_that_of_transformers_after_the_warm_up(kind):
    plain, early = (trainer(kind, 0.25).rates(10, 10) for trainer in (Plain, Early))
    if kind == "constant":  # it has no warm-up
        assert early == plain == [LR] * 10
        return
    assert plain[:3] == pytest.approx([0, LR / 3, LR * 2 / 3])
    assert early[:3] == pytest.approx([LR / 3, LR * 2 / 3, LR]) and early[3:] == plain[3:]
    assert Early(kind, 0).rates(10, 10) == Plain(kind, 0).rates(10, 10)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_short_runs_learn_in_every_step(kind, steps):
    assert Early(kind, 0.03).rates(steps, steps)[0] == LR  # of a warm-up of one step
    rates = Early(kind, 0.999).rates(steps, steps)  # nothing but warm-up
    assert rates == [LR] * steps if kind == "constant" else rates == [LR * (n + 1) / steps for n in range(steps)]


def kept(state):
    """Return what comes of a state in the file of a checkpoint, as transformers reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("began", [Plain, Early])
def test_a_run_goes_on_with_the_rates_that_it_began_with(began):
    whole = began("cosine", 0.4).rates(10, 10)
    first, second = began("cosine", 0.4), Early("cosine", 0.4)
    assert first.rates(10, 2) == whole[:2]
    second.create_scheduler(10).load_state_dict(kept(first.lr_scheduler.state_dict()))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert second.rates(10, 8) == whole[2:]


def test_a_schedule_that_a_trainer_was_given_stays():
    trainer = Early("cosine", 0.4)
    given = trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer)
    assert trainer.create_scheduler(10) is given and not isinstance(given, FirstStepWarmup)
