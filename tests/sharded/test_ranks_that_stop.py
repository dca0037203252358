"""Ranks that disagree, raise or die in training runs, by DDP and FSDP2, and one that is killed while it saves."""

import os
import pickle
import signal
import sys
from unittest.mock import patch

import pytest
import torch
from torch import distributed, nn

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.optimizer import rank_agreement
from support.ranks import Ranks

pytestmark = pytest.mark.slow

DIFFERENT = {  # what ranks 0 and 1 give, and what is said
    "policy": (({"policy": "adamw"}, {"policy": "lion"}), "treatment of parameter '0.weight' is .*adamw.*lion"),
    "option": (({"density": 0.5}, {"density": 0.25}), "treatment of parameter '0.weight' is .*0.5.* on rank 0.*0.25"),
    "seed": (({"seed": 1}, {"seed": 2}), "seed of parameter '0.weight' is 1 on rank 0 and 2 on rank 1"),
    "release": (({"release": "fused"}, {}), "release is 'fused' on rank 0 and 'accumulate' on rank 1"),
    "nonfinite": (({"nonfinite": "skip"}, {}), "nonfinite is 'skip' on rank 0 and 'raise' on rank 1"),
    "turns": (({"policy": "badam"}, {"policy": "adamw"}), "treatment of parameter '0.weight' is .*block.*whole"),
    "version": (({}, {}), "hybridopt's version is 0.0 on rank 0 and 1.0 on rank 1"),
}


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))


def spread(model, how):
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    if how == "ddp":
        return DistributedDataParallel(model)
    fully_shard(model[0])
    return fully_shard(model)


def step_of(how, late, **options):
    model = model_of()
    if late:
        optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, **options)
    outer = spread(model, how)
    if not late:
        optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, **options)
    return model, outer, optimizer


def held(optimizer):
    params = (p for group in optimizer.param_groups for p in group["params"])
    return [(p.to_local() if hasattr(p, "to_local") else p).detach().clone() for p in params]


def disagree(name, how, late):
    options = DIFFERENT[name][0][distributed.get_rank()]
    version = patch.object(rank_agreement, "__version__", f"{distributed.get_rank()}.0")
    _, outer, optimizer = step_of(how, late, **options)
    before = held(optimizer)
    with pytest.raises(HybridOptError) as error, version if name == "version" else patch.dict({}):
        outer(torch.ones(3, 6)).sum().backward()
    assert all(a.equal(b) for a, b in zip(before, held(optimizer), strict=True))
    return str(error.value)


def all_disagreements():
    cells = [(name, how, late) for name in DIFFERENT for how, late in (("ddp", name < "q"), ("fsdp", False))]
    return {cell: disagree(*cell) for cell in cells}


@pytest.fixture(scope="module")
def told():
    ranks = Ranks(2)
    yield ranks.run(all_disagreements)
    ranks.close()


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_disagree_are_told_before_the_first_pass(name, told):
    assert told[0] == told[1]
    for text in (text for cell, text in told[0].items() if cell[0] == name):
        with pytest.raises(HybridOptError, match=f"ranks do not train the same: {DIFFERENT[name][1]}.*nothing was"):
            raise HybridOptError(text)


# ---- one stops


def stops(how, release, dies):
    """Rank 1 raises, or dies, before its second backward pass; the other goes on."""
    model, outer, optimizer = step_of(how, False, policy="adamw", release=release)
    for step in range(2):
        loss = outer(torch.ones(3, 6)).sum()
        if step and distributed.get_rank():
            if dies:
                os._exit(1)
            raise ValueError("my own error")
        try:
            loss.backward()
        except RuntimeError as error:
            return type(error).__name__, str(error)
        optimizer.step()
    return None


@pytest.mark.parametrize(("how", "release", "dies"), [("ddp", "fused", True), ("ddp", "accumulate", False)])
def test_the_others_get_an_error_when_a_rank_stops(how, release, dies):
    ranks = Ranks(2, patience=3)
    try:
        for pipe in ranks.pipes:
            pipe.send_bytes(pickle.dumps((stops, (how, release, dies))))
        assert ranks.pipes[0].poll(20), "it waits"
        good, found = pickle.loads(ranks.pipes[0].recv_bytes())
        assert good and found
        assert release == "accumulate" or found[1].startswith("rank 0 could not meet the others to average gradients")
    finally:
        ranks.close()


# ---- one is killed while it saves

WRITES = {"open", "os.mkdir", "os.rename", "os.remove"}
POINTS = {"its first write": 0, "in the middle": 4, "before the new version is put in place": "commit"}


def saved(folder, point):
    """Save a sharded model, and, trained, once more, while the rank that writes is killed before one of its writes."""
    model = hybridopt.wrap(spread(model_of(), "fsdp"), policy="adamw")
    model.hybrid.save_pretrained(folder)
    optimizer = model.hybrid.optimizer(lr=0.05)
    model(torch.ones(3, 6)).sum().backward()
    optimizer.step()
    if distributed.get_rank() == 0:
        left = point

        def hook(event, arguments):
            nonlocal left
            if event not in WRITES or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            if point == "commit":
                if event == "os.rename":
                    os.kill(os.getpid(), signal.SIGKILL)
                return
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
    try:
        model.hybrid.save_pretrained(folder)
    except HybridOptError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", POINTS)
def test_killed_while_it_saves(name, tmp_path):
    folder, ranks = tmp_path / "saved", Ranks(2, patience=3)
    try:
        for pipe in ranks.pipes:
            pipe.send_bytes(pickle.dumps((saved, (str(folder), POINTS[name]))))
        assert ranks.pipes[1].poll(20), "it waits"
        good, text = pickle.loads(ranks.pipes[1].recv_bytes())
        assert good and text.startswith("rank 1 could not meet the others to save"), text
        ranks.processes[0].join(10)
        assert ranks.processes[0].exitcode == -signal.SIGKILL
    finally:
        ranks.close()
    loaded = hybridopt.from_pretrained(model_of(), folder)
    assert all(p.equal(q) for p, q in zip(model_of().parameters(), loaded.parameters(), strict=True))
