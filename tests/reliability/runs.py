"""Trainer runs that are killed and resumed, and runs that are resumed at random."""

import copy
import io
import os
import random
import signal
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import torch

import hybridopt
from hybridopt.integrations.trainer import HybridTrainer
from support.attacks import Attack
from support.children import fork, status
from support.hostile_states import POLICIES, advance, make
from support.models import tiny_llama
from support.trainers import arguments, data
from support.training import assert_same, snapshot

STEPS = 10


def _trainer(folder):
    model = hybridopt.wrap(tiny_llama(), policy="frugal", density=0.25, update_gap=3)
    settings = dict(max_steps=STEPS, save_steps=2, save_total_limit=2, eval_strategy="no", logging_strategy="no")
    return HybridTrainer(model, arguments(folder, **settings), train_dataset=data())


def _train(folder, resume):
    warnings.simplefilter("ignore")
    trainer = _trainer(folder)
    trainer.train(resume_from_checkpoint=resume or None)
    torch.save({n: p.detach() for n, p in trainer.model.named_parameters()}, Path(folder) / "end.pt")


@cache
def whole():
    """The weights at the end of a run that nobody killed, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        assert status(fork(lambda: _train(folder, False))) == 0
        return torch.load(Path(folder) / "end.pt", weights_only=True), time.perf_counter() - start


def killed(seed):
    """Kill a run of the Trainer at a random moment, then resume until it ends."""
    rng, (expected, usual) = random.Random(seed), whole()
    with tempfile.TemporaryDirectory() as folder:
        kills = 0
        for _ in range(2):
            resume = any(Path(folder).glob("checkpoint-*"))
            child = fork(lambda resume=resume: _train(folder, resume))
            time.sleep(rng.uniform(0.1, 1.0) * usual)
            os.kill(child, signal.SIGKILL)
            kills += bool(status(child))
        resume = any(Path(folder).glob("checkpoint-*"))
        ended = status(fork(lambda: _train(folder, resume)))
        if ended and not any((path / "trainer_state.json").exists() for path in Path(folder).glob("checkpoint-*")):
            ended = status(fork(lambda: _train(folder, False)))  # not one checkpoint was complete
        assert ended == 0, "the run cannot be resumed"
        found = torch.load(Path(folder) / "end.pt", weights_only=True)
        different = [name for name, x in expected.items() if not torch.equal(x, found[name])]
        assert not different, f"resumed, and {len(different)} tensors differ from an uninterrupted run"
        return f"{kills} kills"


def resumed(seed):
    """Resume a run from a file at a random step, by a new optimizer."""
    rng = random.Random(seed)
    policy = sorted(POLICIES)[seed % len(POLICIES)]
    params, optimizer = make(policy)
    at, end = rng.randrange(8), 12
    for step in range(at):
        advance(optimizer, params, step)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    others, other = make(policy)
    with torch.no_grad():
        for name, p in others.items():
            p.copy_(params[name])
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for step in range(at, end):
        advance(optimizer, params, step)
        advance(other, others, step)
    try:
        assert_same(snapshot(optimizer, params), snapshot(other, others))
    except AssertionError as error:
        raise AssertionError(f"{policy}, resumed at step {at}: {error}") from error
    copied = copy.deepcopy((params, optimizer))
    assert_same(snapshot(optimizer, params), snapshot(copied[1], copied[0]))
    return "equal bits"


ATTACKS = {
    "kill -9 of a Trainer run": Attack(
        "a run of `HybridTrainer` is killed twice at random moments, then resumed",
        "it ends with the bits of a run that nobody killed",
        killed,
        rounds=30,
        few=1,
    ),
    "resumed runs": Attack(
        "a run of any policy goes on from a file at a random step, by a new optimizer",
        "weights, state and clocks have the bits of the run that was not interrupted",
        resumed,
        rounds=100,
        few=25,
    ),
}
