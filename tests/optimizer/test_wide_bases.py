"""Bases of 64 and more directions, which come of noise by few products: resumed to the bit, and another one a seed."""

import pytest
import torch

from hybridopt.parts.splits import _iteration
from support.training import advance, assert_same, optimize, snapshot, tensors, through_a_file, twin

SHAPES = {"layers.0.w": (80, 72), "layers.1.w": (72, 90), "layers.2.w": (20, 16)}  # tall, wide, and few directions
GAP, DENSITY = 2, 0.9
POLICIES = {
    "galore": ({"policy": "galore"}, torch.float32),
    "frugal": ({"split": "svd"}, torch.bfloat16),
    "left": ({"policy": "galore", "side": "left"}, torch.bfloat16),
}


def made(params, name, **options):
    return optimize(params, density=DENSITY, update_gap=GAP, compile=False, **POLICIES[name][0], **options)


def basis(optimizer, params, name):
    (found,) = (x for key, x in optimizer.state[params[name]].items() if "basis" in key)
    return found.clone()


@pytest.mark.parametrize("name", POLICIES)
def test_they_are_resumed_to_the_bit(name):
    params, saved = tensors(SHAPES, POLICIES[name][1]), []
    whole, steps = made(params, name), 2 * GAP + 1

    def save(step=None):
        saved.append((twin(params), through_a_file(whole.state_dict())))

    save()
    advance(whole, params, steps, each=save)
    ranks = [basis(whole, params, one).shape[-1] for one in SHAPES]
    assert min(ranks[:2]) >= _iteration.WIDE > ranks[2]
    for start, (resumed, state) in enumerate(saved[:-1]):
        again = made(resumed, name)
        again.load_state_dict(state)
        advance(again, resumed, steps - start, start)
        assert_same(snapshot(again, resumed), snapshot(whole, params))


def test_they_follow_from_the_seed():
    found = []
    for seed in (0, 0, 1):
        params = tensors(SHAPES)
        optimizer = made(params, "galore", seed=seed)
        advance(optimizer, params, 1)
        found.append({one: basis(optimizer, params, one) for one in SHAPES})
    assert_same(found[0], found[1])
    assert all((found[0][one] - found[2][one]).abs().max() > 1e-3 for one in SHAPES)
