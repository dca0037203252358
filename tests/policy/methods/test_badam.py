"""BAdam against its restatement; whose turn it is is read from where the optimizer keeps state."""

import re

import numpy as np
import pytest
import torch

from support.reference.badam import BAdam
from support.training import advance, clock, give, optimize, tensors, values

SHAPES = {
    "embed.weight": (10, 6),
    **{
        f"layers.{i}.{n}": s
        for i in range(4)
        for n, s in (("w.weight", (6, 5)), ("w.bias", (6,)), ("norm.weight", (6,)))
    },
    "final_norm.weight": (6,),
}
LAYERS = [f"layers.{i}" for i in range(4)]
GAP, LR, DECAY = 3, 0.02, 0.1


def layer_of(name):
    found = re.match(r"layers\.\d+", name)
    return found.group() if found else None


def badam(params, **options):
    return optimize(params, policy="badam", **{"update_gap": GAP, "lr": LR, "weight_decay": DECAY} | options)


def in_turn(optimizer, params):
    """The layers that have state now."""
    return {layer_of(n) for n, p in params.items() if optimizer.state.get(p) and layer_of(n)}


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("order", ["random", "ascending", "descending", "mirror"])
def test_as_restated(order, dtype, rtol):
    params = tensors(SHAPES, dtype)
    optimizer = badam(params, order=order)
    decay = {n: DECAY for n in SHAPES if n.endswith("w.weight")}
    weights = {n: p.detach().numpy() for n, p in params.items() if layer_of(n)}
    restated, turns = BAdam(weights, layer_of, LR, decay), []
    for step in range(GAP * 8):
        give(params, step)
        optimizer.step()
        (active,) = in_turn(optimizer, params)
        if step % GAP == 0:
            turns.append(active)
            restated.switch(active)
        assert active == turns[-1]
        restated.step({n: p.grad.numpy() for n, p in params.items()})
    for name, weight in restated.weights.items():
        np.testing.assert_allclose(params[name].detach().numpy(), weight, rtol, rtol / 10, err_msg=name)
    assert set(turns[:4]) == set(turns[4:]) == set(LAYERS)
    wanted = {"ascending": LAYERS, "descending": LAYERS[::-1], "mirror": [LAYERS[i] for i in (0, 3, 1, 2)]}
    assert order == "random" or turns == wanted[order] * 2


def test_layers_that_stand_still_do_not_move_or_decay():
    params = tensors(SHAPES)
    optimizer = badam(params, order="ascending")
    before = values(params)
    advance(optimizer, params, GAP)
    moved = {n for n, p in params.items() if not p.detach().equal(before[n])}
    assert moved == {n for n in SHAPES if layer_of(n) in ("layers.0", None) and n != "embed.weight"}


def test_every_block_gets_all_of_its_steps():
    """The reference gives the first block one step less."""
    params = tensors(SHAPES)
    optimizer = badam(params, order="ascending")
    turns = []
    advance(optimizer, params, 12, each=lambda _: turns.append(in_turn(optimizer, params)))
    assert turns == [{layer} for layer in LAYERS for _ in range(GAP)]


def test_groups_keep_their_own_lr_and_decay():
    """The reference lets its defaults win over the groups'."""
    params = tensors({"layers.0.weight": (4, 4), "head.weight": (4, 4)})
    groups = [
        {"params": [("layers.0.weight", params["layers.0.weight"])], "lr": 0.5, "weight_decay": 0.5},
        {"params": [("head.weight", params["head.weight"])]},
    ]
    from hybridopt import HybridOptimizer

    optimizer = HybridOptimizer(groups, lr=0.1, policy="badam")
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.5), (0.1, 0.0)]
    before = values(params)
    for p in params.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    wanted = before["layers.0.weight"] * 0.75 - 0.5
    torch.testing.assert_close(params["layers.0.weight"].detach(), wanted)
    torch.testing.assert_close(params["head.weight"].detach(), before["head.weight"] - 0.1)


@pytest.mark.parametrize("policy", ["badam", "block"])
def test_gradients_of_idle_parameters_are_dropped(policy):
    params = tensors({n: s for n, s in SHAPES.items() if n.startswith("layers") and len(s) == 2})
    options = {"policy": "badam"} if policy == "badam" else {"split": "block", "free": "no_update", "density": 0.25}
    optimizer = optimize(params, update_gap=2, order="ascending", **options)
    for step in range(8):
        for micro in range(2):  # gradient accumulation
            sum(p.square().sum() for p in params.values()).backward()
            present = [n for n, p in params.items() if p.grad is not None]
            assert present == [f"layers.{step // 2}.w.weight"], (step, micro)
        grad = params[present[0]].grad
        torch.testing.assert_close(grad, 4 * params[present[0]].detach())
        optimizer.step()
        optimizer.zero_grad()
    assert clock(optimizer) == [8] * len(optimizer.param_groups)


def test_hooks_go_with_unhook_and_do_not_keep_the_optimizer():
    import gc
    import weakref

    params = tensors({"layers.0.weight": (4, 4), "layers.1.weight": (4, 4)})
    optimizer = badam(params)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    optimizer = badam(params)
    optimizer.unhook()
    sum(p.sum() for p in params.values()).backward()
    assert all(p.grad is not None for p in params.values())


def test_several_blocks_at_a_time():
    params = tensors(SHAPES)
    optimizer = badam(params, blocks=2, order="ascending", update_gap=1)
    turns = []
    advance(optimizer, params, 4, each=lambda _: turns.append(in_turn(optimizer, params)))
    assert turns == [{"layers.0", "layers.1"}, {"layers.2", "layers.3"}] * 2


def test_names_without_layers_dot_are_found():
    """The reference's pattern finds no blocks in models that number their layers otherwise."""
    params = tensors({f"transformer.h.{i}.attn.weight": (4, 4) for i in range(3)})
    optimizer = badam(params, update_gap=1)
    seen = []
    advance(optimizer, params, 3, each=lambda _: seen.append([n for n, p in params.items() if optimizer.state.get(p)]))
    assert sorted(n for turn in seen for n in turn) == sorted(params)
