"""Own parts: those of the contract's page work, those that lack something are refused by name, with the cure."""

import pickle
import re
import textwrap
from dataclasses import dataclass, replace

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.core.contracts import Codec, Draw, Ready, Rule, Slot, Source, Split, Store, rule
from hybridopt.core.registry import make
from hybridopt.parts.rules.adamw import AdamW
from hybridopt.parts.rules.momentum import Momentum

GRADS = torch.randn((6, 300, 400), generator=torch.Generator().manual_seed(0))


def trained(full, compile=False, **axes):
    """A weight after six steps, large enough for slices and for compiling."""
    p = torch.nn.Parameter(torch.ones(300, 400))
    policy = Policy((Route(Treatment(full=full, **axes)),))
    optimizer = HybridOptimizer([("w", p)], lr=0.1, policy=policy, compile=compile)
    for grad in GRADS:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach()


@pytest.fixture(scope="module")
def page():
    """Everything that the examples on the contract's page define."""
    found = {}
    for block in re.findall(r"::\n\n((?:    .*\n|\n)+)", rule.__doc__):
        exec(textwrap.dedent(block), found)  # noqa: S102
    return found


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_the_rule_on_the_contracts_page_trains(page, compile):
    velocity, p = torch.zeros(300, 400), torch.ones(300, 400)
    for step, grad in enumerate(GRADS, 1):
        velocity.lerp_(grad, 1 - 0.95)
        p -= 0.1 * velocity / (1 - 0.95**step)
    assert page["treatment"] == Treatment(full=page["Heavyball"](0.95))
    torch.testing.assert_close(trained(page["treatment"].full, compile), p)


@pytest.mark.parametrize("split", ["whole", "columns", "block"])
def test_the_looking_rule_on_the_contracts_page_trains(page, split):
    options = {"split": make("splits", split)} if split != "columns" else {"split": make("splits", split, density=0.5)}
    moved = trained(page["UnitNorm"](), **options, free=make("rules", "no_update"))
    assert moved.isfinite().all() and not moved.equal(torch.ones(300, 400))
    if split == "whole":
        torch.testing.assert_close(moved, 1 - 0.1 * sum(grad / grad.norm() for grad in GRADS))


def test_a_rule_that_looks_and_has_no_look_says_so():
    @dataclass(frozen=True)
    class Blind(Rule):
        looks = 1

        def update(self, grad, state, param, now):
            return grad.clone()

    with pytest.raises(HybridOptError, match=r"Blind has looks=1 and lacks look\(\); write it, or say looks = None"):
        trained(Blind())


def test_a_part_that_leaves_out_what_has_no_default_cannot_be_made():
    @dataclass(frozen=True)
    class Nothing(Rule):
        pass

    with pytest.raises(TypeError, match="update"):
        Nothing()


class Lonely:
    """A part of its own kind: it has everything that parts had to have once, and subclasses nothing."""

    def slots(self, shape):
        return {}

    def update(self, grad, state, param, now):
        return grad.clone()

    def at(self, draw, shape):
        return self

    def raw(self, slot):
        return {"": slot}

    load = store = fits = write_ = noise = weights = raw


@pytest.mark.parametrize(
    ("axis", "contract", "lacks"),
    [
        ("full", Rule, ["local", "reads_param", "looks", "idle", "products", "proportional", "fit", "numbers"]),
        ("free", Rule, ["local", "reads_param", "looks", "idle", "products", "proportional", "fit", "numbers"]),
        ("split", Split, ["update_gap", "density", "by_turns", "spread", "ahead", "window", "begin", "constant"]),
        ("codec", Codec, ["local", "random", "block", "beside"]),
        ("store", Store, ["random", "block", "roles", "write_beside_", "put_"]),
        ("source", Source, ["backward", "share", "scheme", "eps", "update_gap", "exact", "kind", "sample"]),
    ],
)
def test_a_part_that_lacks_something_is_refused_by_name_with_the_cure(axis, contract, lacks):
    with pytest.raises(HybridOptError) as error:
        Treatment(**{axis: Lonely()})
    text = str(error.value)
    assert text.startswith(f"Treatment: {axis}=<") and f"it lacks {', '.join(lacks)}" in text
    assert f"subclasses hybridopt.core.contracts.{contract.__name__}" in text
    with pytest.raises(HybridOptError, match=f"{axis}=<class .*give an instance"):
        Treatment(**{axis: Lonely})


def test_a_part_that_subclasses_nothing_and_has_everything_will_do():
    class Alone:
        local, reads_param, looks, idle, products, proportional = True, False, 0, False, False, True

        def fit(self, param):
            return self

        def slots(self, shape):
            return {"momentum_buffer": Slot(shape)}

        def numbers(self, step):
            return {"gain": 1.0}

        look = settle = numbers

        def update(self, grad, state, param, now):
            return state["momentum_buffer"].mul_(0.9).add_(grad * now["gain"]).clone()

    assert trained(Alone()).equal(trained(Momentum()))


def test_a_split_whose_part_lacks_something_is_refused_by_name():
    @dataclass(frozen=True)
    class Odd(Split):
        def at(self, draw, shape):
            return Lonely()

    with pytest.raises(HybridOptError, match=r"Odd\.at: part=.*it lacks local, .*subclasses .*contracts\.Part"):
        trained(Momentum(), split=Odd())


def test_a_source_whose_direction_lacks_something_is_refused_by_name():
    class Odd(type(make("sources", "spsa"))):
        def noise(self, draw, shape, index, basis):
            return Lonely()

    optimizer = HybridOptimizer([torch.nn.Parameter(torch.ones(3))], policy=Policy((Route(Treatment(source=Odd())),)))
    with pytest.raises(HybridOptError, match=r"Odd\.noise: noise=.*it lacks values, drawn; .*contracts\.Noise"):
        optimizer.probe(lambda: 1.0)


def test_a_policy_that_lacks_something_is_refused_by_name():
    class Own:
        routes = (Route(Treatment()),)

    class Whole(Ready):
        routes = Own.routes

    weights = [("w", torch.nn.Parameter(torch.ones(3)))]
    with pytest.raises(
        HybridOptError, match=r"it lacks lr, start_from, opens_scales, options; .*subclasses .*contracts\.Ready"
    ):
        HybridOptimizer(weights, policy=Own())
    assert HybridOptimizer(weights, policy=Whole()).param_groups[0]["tag"] == "state-full"


def test_what_a_part_works_out_is_no_field_of_it():
    lines = make("splits", "columns").at(Draw(0, "w"), (4, 8))
    assert lines.local and vars(lines) == {"dim": -1, "count": 2}
    assert pickle.loads(pickle.dumps(lines)) == lines == replace(lines)


def test_a_name_is_no_instance():
    with pytest.raises(HybridOptError, match="full='adamw' is not allowed: a name is not enough .*hybridopt.parts"):
        Treatment(full="adamw")


def test_what_cannot_be_hashed_is_refused_by_name():
    @dataclass
    class Loose(Rule):
        def update(self, grad, state, param, now):
            return grad

    with pytest.raises(HybridOptError, match=r"full=.*Loose.* is not allowed: unhashable type.*frozen=True"):
        Treatment(full=Loose())


def test_the_update_of_a_subclass_is_obeyed():
    @dataclass(frozen=True)
    class Still(AdamW):
        def update(self, grad, state, param, now):
            return torch.zeros_like(grad)

    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = HybridOptimizer([("w", p)], lr=0.1, policy=Policy((Route(Treatment(full=Still())),)))
    p.grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(p, torch.ones(4, 4))
