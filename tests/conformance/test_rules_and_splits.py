"""Every split and every rule that the package has, held to its contract."""

import pytest
import torch

from hybridopt.core.contracts import Slot
from support.parts import DENSITIES, MATRIX_ONLY, RULES, SHAPES, SPLITS, draw, split_of
from support.rule_driver import state_for, step

CELLS = [
    (name, density, shape)
    for name in SPLITS
    for density in DENSITIES
    for shape in SHAPES
    if not (name in MATRIX_ONLY and len(shape) < 2)
]


def numbers(shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sampled(part, x, window=0):
    """The part's basis for this window, filled from `x`."""
    slots = part.slots(tuple(x.shape))
    basis = {
        k: torch.zeros(s.shape, dtype=x.dtype if s.dtype.is_floating_point else s.dtype) for k, s in slots.items()
    }
    part.sample(x, basis, draw(window))
    return basis


@pytest.mark.parametrize(("name", "density", "shape"), CELLS)
def test_a_split_loses_nothing_and_doubles_nothing(name, density, shape):
    part = split_of(name, density).at(draw(1), shape)
    grad, x = numbers(shape), numbers(shape, 2)
    basis = sampled(part, grad, 1)
    low, rest, before = part.down(x, basis), part.rest(x, basis), x.clone()
    declared = part.shape(shape)
    assert (declared is None) == (low is None)
    assert low is None or tuple(low.shape) == declared
    assert rest is None or rest.shape == x.shape
    whole = rest if low is None else part.up_(torch.zeros_like(x) if rest is None else rest.clone(), low, basis)
    torch.testing.assert_close(whole, x, rtol=1e-12, atol=1e-12)
    if low is not None:
        lifted = part.up_(torch.zeros_like(x), low, basis)
        torch.testing.assert_close(part.down(lifted, basis), low, rtol=1e-12, atol=1e-12)
        if rest is not None:
            assert part.down(rest, basis).abs().max() < 1e-12, "the state-free part leaks into the state-full one"
    assert x.equal(before), "a split changed its argument"


@pytest.mark.parametrize("options", [{}, {"side": "left"}, {"bits": 4}, {"bits": 4, "threshold": 0.4}], ids=str)
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (2, 6, 4)], ids=str)
def test_the_product_of_its_factors_is_what_a_projection_adds(shape, options):
    part = SPLITS["svd"](0.5, **options).at(draw(), shape)
    grad = numbers(shape, dtype=torch.float32)
    basis = sampled(part, grad)
    low = part.down(grad, basis)
    left, right = part.factors(shape, low, basis)
    torch.testing.assert_close(left @ right, part.up_(torch.zeros_like(grad), low, basis))


@pytest.mark.parametrize(("name", "density", "shape"), CELLS)
def test_density_is_kept_and_tiny_is_at_least_one(name, density, shape):
    part = split_of(name, density).at(draw(), shape)
    low = part.shape(shape)
    if name in ("whole", "empty"):
        return
    if name == "block":
        members = [split_of(name, density).at(draw(0, n), shape).shape(shape) is not None for n in "wxyz"]
        assert sum(members) == max(density > 0, int(density * 4))
    elif density == 0:
        assert low is None
    else:
        sizes = torch.Size(low).numel(), torch.Size(shape).numel()
        line = {"columns": shape[-1], "rows": shape[-2] if len(shape) > 1 else shape[-1], "randk": sizes[1]}
        units = line.get(name, min(shape[-2:]))
        assert sizes[0] * units == sizes[1] * max(1, round(density * units))


@pytest.mark.parametrize("name", SPLITS)
def test_a_basis_is_drawn_as_declared_and_again_the_same(name):
    part = split_of(name, 0.5).at(draw(2), (6, 8))
    x = numbers((6, 8))
    first, second = sampled(part, x, 2), sampled(part, x, 2)
    assert list(first) == list(part.slots((6, 8)))
    assert all(first[k].equal(second[k]) for k in first)
    if first and name != "svd":
        others = [sampled(part, x, window) for window in range(3, 9)]
        assert any(not first[k].equal(other[k]) for other in others for k in first), "always the same choice"


@pytest.mark.parametrize("name", ["svd", "random"])
@pytest.mark.parametrize("side", ["std", "reverse_std", "left", "right"])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (2, 6, 4)])
def test_subspace_sides(name, side, shape):
    part = SPLITS[name](0.5, 2, side).at(draw(), shape)  # small, so that iterations find all
    rows, cols = shape[-2:]
    right = {"std": rows >= cols, "reverse_std": rows < cols, "left": False, "right": True}[side]
    x = numbers(shape)
    q = sampled(part, x)["basis"]
    assert q.shape[-2] == (cols if right else rows)
    torch.testing.assert_close(q.mT @ q, torch.eye(q.shape[-1], dtype=q.dtype).expand(*q.shape[:-2], -1, -1))
    if name == "svd" and q.shape[-1] <= min(rows, cols):
        s = torch.linalg.svdvals(x)
        energy = part.down(x, {"basis": q}).square().sum((-2, -1))
        torch.testing.assert_close(energy, s[..., : q.shape[-1]].square().sum(-1))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_leaves_the_gradient_alone_and_returns_a_fresh_tensor(name):
    rule = RULES[name]()
    grad, param, state = numbers((4, 6)), numbers((4, 6), 3), state_for(rule, (4, 6))
    for t in (1, 2):
        before = grad.clone()
        out = step(rule, grad, state, param, t)
        kept = [x.clone() for x in state.values()]
        out.mul_(1e6)
        assert grad.equal(before)
        assert all(a.equal(b) for a, b in zip(kept, state.values(), strict=True)), "the direction is the state itself"
        assert out.shape == grad.shape and out.dtype == grad.dtype
    assert all(isinstance(slot, Slot) for slot in rule.slots((4, 6)).values())
    assert all(isinstance(number, int | float) for number in rule.numbers(1).values())


@pytest.mark.parametrize("name", RULES)
def test_a_stack_is_updated_as_its_members(name):
    rule = RULES[name]()
    grads, params = numbers((3, 4, 5, 6)), numbers((4, 5, 6), 9)
    together = state_for(rule, (4, 5, 6))
    apart = [state_for(rule, (5, 6)) for _ in range(4)]
    for t, grad in enumerate(grads, 1):
        whole = step(rule, grad, together, params, t)
        each = [step(rule, g, s, p, t) for g, s, p in zip(grad, apart, params, strict=True)]
        torch.testing.assert_close(whole, torch.stack(each), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.looks is not None])
def test_slices_of_rows_give_the_result_of_the_whole(name):
    rule = RULES[name]()
    grads, params = numbers((3, 8, 5)), numbers((8, 5), 9)
    whole, cut = state_for(rule, (8, 5)), state_for(rule, (8, 5))
    for t, grad in enumerate(grads, 1):
        out = step(rule, grad, whole, params, t)
        torch.testing.assert_close(step(rule, grad, cut, params, t, (3, 4)), out, rtol=1e-12, atol=1e-13)
    assert rule.looks == 0 or not rule.local


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.reads_param])
def test_a_rule_that_does_not_read_the_weight_works_without(name):
    rule, grad = RULES[name](), numbers((4, 6))
    with_weight = step(rule, grad, state_for(rule, (4, 6)), numbers((4, 6), 3))
    assert with_weight.equal(step(rule, grad, state_for(rule, (4, 6))))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_whether_its_steps_grow_with_the_gradients(name):
    rule, grads, params = RULES[name](), numbers((3, 4, 6)), numbers((4, 6), 3)
    one, other = (state_for(rule, (4, 6)) for _ in range(2))
    for t, grad in enumerate(grads, 1):
        plain, twice = step(rule, grad, one, params, t), step(rule, 2 * grad, other, params, t)
    assert rule.idle or rule.proportional == torch.allclose(twice, 2 * plain)
