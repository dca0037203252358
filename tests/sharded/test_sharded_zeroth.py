"""Zeroth order under FSDP2: every rank shifts its own rows as one process would, and losses are shared."""

import warnings
from unittest.mock import patch

import pytest
import torch
from torch import distributed

from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.execution.backends.native import Native
from hybridopt.parts.codecs.int8 import Int8
from support.ranks import Ranks
from support.sharded_llama import llama
from support.sharded_probing import Loss, batch, probed
from support.sharding import sharded, weights

pytestmark = pytest.mark.slow

CELLS = {
    "mezo": {"policy": "mezo"},
    "mezo-bf16": {"policy": "mezo", "dtype": torch.bfloat16},  # whose vectors are rounded at random, by one rank
    "mezo-normal": {"policy": "mezo", "kind": "gaussian", "samples": 2, "weight_decay": 0.1},
    "lezo": {"policy": "lezo"},
    "fzoo": {"policy": "fzoo", "samples": 3},
    "subzero": {"policy": "subzero", "rank": 2, "update_gap": 2},
    "zo_signsgd": {"policy": "zo_signsgd"},
    "zo_conservative": {"policy": "zo_conservative"},
    "zo_momentum": {"policy": "zo_momentum"},
    "zo_adam": {"policy": "zo_adam"},
    "zo_adam-int8": {"policy": "zo_adam", "codec": Int8(16, 0)},
    "addax": {"policy": "addax", "alpha": 0.3},
    "addax-fused": {"policy": "addax", "alpha": 0.3, "release": "fused"},
    "addax-bf16": {"policy": "addax", "alpha": 0.3, "dtype": torch.bfloat16},
}


@pytest.fixture(scope="module")
def two():
    made = Ranks(2, patience=6)
    yield made
    made.close()


def one(options, ranks=False):
    options, lr = dict(options), 1e-3 if options["policy"] == "zo_conservative" else 0.05
    model = Loss(options.pop("dtype", torch.float32))
    with patch.object(Native, "fits", lambda self, task: False):  # torch's kernels round the ends of tensors otherwise
        optimizer = probed(sharded(model) if ranks else model, options, lr=lr)
    return weights(model), optimizer.projected_gradient


@pytest.mark.parametrize("name", CELLS)
def test_the_same_bits_as_one_process(name, two, three):
    (alone, slope), before = one(CELLS[name]), weights(Loss(CELLS[name].get("dtype", torch.float32)))
    assert slope and any(not x.equal(before[n]) for n, x in alone.items())
    for found, other in (three if name in ("mezo-bf16", "subzero", "zo_adam-int8") else two).run(
        one, CELLS[name], True
    ):
        assert other == slope
        for n, x in alone.items():
            assert x.equal(found[n]), (n, (x - found[n]).abs().max())


def replicas(options):
    """Train shards and replicas, each rank on batches of its own."""

    def own(step):
        return batch(10 * step + distributed.get_rank())

    model, copy = sharded(Loss()), Loss()
    optimizers = probed(model, options, batches=own), probed(copy, options, batches=own)
    return weights(model), weights(copy), [optimizer.slopes for optimizer in optimizers]


@pytest.mark.parametrize("policy", ["mezo", "fzoo"])
def test_shards_and_replicas_go_by_the_losses_of_all_ranks(policy, two):
    (model, copy, slopes), (other, also, _) = two.run(replicas, {"policy": policy})
    assert slopes[0] == slopes[1]
    for n, x in model.items():
        assert x.equal(copy[n]) and x.equal(other[n]) and x.equal(also[n])


def stale(ranks, prefetch=False):
    """Whole layers stay after forward passes: none of them may be taken for the weights as they are by then."""
    model = Loss()
    if ranks:
        model = sharded(model, reshard_after_forward=False)
        if prefetch:
            model.set_modules_to_forward_prefetch([*model.layers])
    optimizer, losses = HybridOptimizer(model.named_parameters(), 0.05, module=model, policy="mezo"), []

    def evaluate():
        with torch.no_grad():
            losses.append(model(batch(9)).item())

    for step in range(3):
        evaluate()
        optimizer.probe(lambda step=step: model(batch(step)))
        evaluate()
        optimizer.step()
        evaluate()
    return weights(model), losses


@pytest.mark.parametrize("prefetch", [False, True])
def test_whole_layers_that_stay_are_never_out_of_date(prefetch, two):
    alone, losses = stale(False)
    assert losses[0] == losses[1] != losses[2] == losses[3]
    for found, theirs in two.run(stale, True, prefetch):
        assert theirs == losses
        assert all(x.equal(found[n]) for n, x in alone.items())


WAYS = {
    "before": {},
    "after": {"after": True},
    "mixed": {"mixed": True},
    "offload": {"offload": True},
    "lora-mezo": {"lora": True},
    "lora-addax": {"lora": True, "policy": "addax"},
    "nf4-lora": {"lora": True, "nf4": True},
    "nf4-qzo": {"policy": "qzo", "nf4": True},
}


class Interrupt(Exception):
    pass


def interrupted(ranks):
    """A closure that raises in the middle of a forward pass, on all ranks, leaves everything as it was."""
    model = sharded(Loss()) if ranks else Loss()
    optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, policy="mezo")
    with pytest.raises(Interrupt):
        optimizer.step(fail)
    probed(model, {}, 1, 0, optimizer)
    before = weights(model)
    handle = model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(Interrupt):
        probed(model, {}, 1, 1, optimizer)
    handle.remove()
    same = all(x.equal(before[n]) for n, x in weights(model).items())
    probed(model, {}, 2, 1, optimizer)
    return weights(model), same


def fail(*_):
    raise Interrupt


def test_a_closure_that_raises_everywhere_changes_nothing(two):
    alone, _ = interrupted(False)
    for found, same in two.run(interrupted, True):
        assert same and all(x.equal(found[n]) for n, x in alone.items())


def constant(model):
    """A loss that no parameter is used for, and one that is the same wherever they are shifted."""
    optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, policy="mezo")
    with pytest.raises(HybridOptError, match="no parameter of this optimizer was used"):
        optimizer.step(lambda: torch.ones(()))
    optimizer.step(lambda: model(batch(0)) * 0)


def test_losses_without_any_parameter_are_refused(two):
    constant(Loss())
    two.run(constants)


def constants():
    constant(sharded(Loss()))


def llama_probed(ranks, policy="mezo", **ways):
    model = llama(ranks, policy=policy, **ways)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = model.hybrid.optimizer(lr=1e-3)
        for step in range(2):
            tokens = torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(step))
            optimizer.step(lambda tokens=tokens: model(input_ids=tokens, labels=tokens).loss)
            optimizer.zero_grad()
    whole = {n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in model.named_parameters()}
    trained = [n for group in optimizer.param_groups for n in group["param_names"]]
    return {n: whole[n].detach().clone() for n in trained if n in whole}, optimizer.projected_gradient


@pytest.mark.parametrize("name", WAYS)
def test_ways_to_shard_a_model(name, two):
    (alone, slope), others = llama_probed(False, **WAYS[name]), two.run(llama_probed, True, **WAYS[name])
    for found, theirs in others:
        assert theirs == others[0][1] and found.keys() == alone.keys()
        assert all(x.equal(others[0][0][n]) for n, x in found.items())
        if name != "mixed":  # which computes in bfloat16
            assert theirs == slope
            assert all(x.equal(found[n]) for n, x in alone.items()) or name == "lora-addax"
