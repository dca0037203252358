"""Training by losses alone of the tiny model in a folder, resident or with layers that rest elsewhere."""

from dataclasses import dataclass, field
from functools import cache
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import hybridopt
from hybridopt.model.placement.placed import placed
from support.models import batch
from support.placed import lora, model_at

_WORKING = TemporaryDirectory(prefix="hybridopt-working-")  # working files have no names, and leave nothing there


@dataclass
class Run:
    """What came of a training: losses and slopes, weights at its end, and bytes after every step, over the layers'.

    near: read or copied to the device; kept: written or copied back.
    """

    losses: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    near: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)


def started(way, policy, scheme=None, adapters=False, lr=1e-3, path=None, options=(), **placement):
    """A wrapped model with dropout, in training, and its optimizer."""
    torch.manual_seed(3)
    if way == "mapped":
        placement = {"cache": _WORKING.name} | placement
    model = model_at(way, scheme, path=path, **({} if way == "resident" else placement))
    dropping(model)
    config = lora(lora_dropout=0.1, init_lora_weights=False) if adapters else None
    model = hybridopt.wrap(model, policy=policy, peft_config=config, **dict(options)).train()
    return model, model.hybrid.optimizer(lr=lr)


def dropping(model):
    """Let a model drop some attention at random."""
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    return model


def stepped(model, optimizer, first, last, closures=None):
    """The losses of some steps of which each has a batch of its own."""
    found = []
    for step in range(first, last):
        torch.manual_seed(step)  # of dropout
        given = batch(model, size=2, seed=step)
        loss = (lambda b=given: model(**b).loss) if closures is None else closures(model, step)
        found += [optimizer.probe(loss), *optimizer.slopes]
        if optimizer.gradients_needed:
            other = model(**batch(model, size=1, seed=100 + step)).loss
            other.backward()
            found.append(other.item())
        optimizer.step()
        optimizer.zero_grad()
    return found


def trained(way, policy, steps=4, closures=None, **how):
    model, optimizer = started(way, policy, **how)
    run, there = Run(), placed(model)
    for step in range(steps):
        run.losses += stepped(model, optimizer, step, step + 1, closures)
        if there is not None:
            size, traffic = sum(unit.nbytes for unit in there.units), there.traffic
            run.near.append((traffic.read + traffic.moved) / size)
            run.kept.append((traffic.written + traffic.returned) / size)
    run.weights = weights(model)
    return run


@cache
def resident(policy, **how):
    return trained("resident", policy, **how)


def weights(model):
    return {n: x.detach().clone() for n, x in model.state_dict().items() if isinstance(x, Tensor)}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
