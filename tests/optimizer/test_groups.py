"""What an optimizer takes: parameters in every form that torch takes, groups at the start and on the way."""

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer
from support.training import advance, clock, optimize, tensors, values

P = torch.nn.Parameter


@pytest.mark.parametrize(
    "form",
    [
        lambda d: list(d.values()),
        lambda d: iter(d.values()),
        lambda d: list(d.items()),
        lambda d: (item for item in d.items()),
        lambda d: [{"params": list(d.values())}],
        lambda d: [{"params": list(d.items()), "lr": 0.01}],
        lambda d: [{"params": iter(d.values())}],
        lambda d: [{"params": p} for p in d.values()],
        lambda d: [{"params": []}, {"params": list(d.values())}],
        lambda d: [{"params": list(d.items())}, {"params": []}],
        lambda d: [{"params": list(d.values())}, {"params": []}],
    ],
    ids=range(11),
)
def test_every_form_of_parameters(form):
    params = tensors()
    optimizer = HybridOptimizer(form(params), lr=0.01, density=0.5)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in params.values()}
    before = values(params)
    advance(optimizer, params, 2)
    assert all(not p.detach().equal(before[n]) for n, p in params.items())


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (P(torch.ones(2)), TypeError, "iterable of Tensors or dicts"),
        ([], ValueError, "empty parameter list"),
        ([P(torch.ones(2)) * 2], ValueError, "non-leaf"),
        ([1], TypeError, "can only optimize Tensors"),
        ([{"params": {P(torch.ones(2))}}], TypeError, "ordered collections"),
        ([{"params": []}], ValueError, "nothing to train"),
        ([("a", P(torch.ones(2))), P(torch.ones(2))], ValueError, "with/without names"),
        ([{"params": [("a", P(torch.ones(2)))]}, {"params": [P(torch.ones(2))]}], ValueError, "with/without names"),
        ([{"params": [P(torch.ones(2))]}, {"params": [("a", P(torch.ones(2)))]}], ValueError, "with/without names"),
        ([{"lr": 1}], KeyError, "params"),
        ([("a", P(torch.ones(2))), ("a", P(torch.ones(2)))], HybridOptError, "'a'.*twice"),
        ([{"params": [P(torch.ones(2))], "lr": -1}], ValueError, "lr=-1"),
        ([{"params": [P(torch.ones(2))], "weight_decay": -1}], ValueError, "weight_decay=-1"),
        ([P(torch.ones(2, dtype=torch.complex64))], ValueError, "complex.*view_as_real"),
        ([("w", torch.ones(2, 2, dtype=torch.float8_e4m3fn))], ValueError, "'w'.*float8_e4m3fn"),
    ],
    ids=range(15),
)
def test_wrong_parameters(given, error, text):
    with pytest.raises(error, match=text):
        HybridOptimizer(given)


def test_one_parameter_in_two_groups_and_twice_in_one():
    p = P(torch.ones(2))
    with pytest.raises(ValueError, match="more than one parameter group"):
        HybridOptimizer([{"params": [p]}, {"params": [p]}])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        HybridOptimizer([p, p])


def test_groups_can_be_added_on_the_way():
    params = tensors()
    first = {n: p for n, p in params.items() if n.startswith("a.0")}
    optimizer = optimize(first)
    advance(optimizer, first, 4)
    optimizer.add_param_group({"params": [(n, p) for n, p in params.items() if n not in first], "lr": 0.5})
    assert clock(optimizer) == [4] * 3 and [g["user_group"] for g in optimizer.param_groups] == [0, 0, 1]
    assert {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}["a.1.weight"] == 0.5
    before = values(params)
    advance(optimizer, params, 3, 4)
    assert all(not p.detach().equal(before[n]) for n, p in params.items())
    assert clock(optimizer) == [7] * 3
    with pytest.raises(HybridOptError, match="twice"):
        optimizer.add_param_group({"params": [("a.0.weight", P(torch.ones(2)))]})
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": [P(torch.ones(2))]})
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([P(torch.ones(2))])
    assert clock(optimizer) == [7] * 3


def test_unnamed_groups_can_be_added_on_the_way():
    params = [P(torch.ones(4, 4)) for _ in range(3)]
    optimizer = HybridOptimizer(params[:2], density=0.5)
    optimizer.add_param_group({"params": params[2]})
    optimizer.add_param_group({"params": []})
    assert [n for g in optimizer.param_groups for n in g["param_names"]] == ["param_0", "param_1", "param_2"]
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": [("w", P(torch.ones(2)))]})
    optimizer.add_param_group({"params": [P(torch.ones(2, 2))]})
    assert optimizer.param_groups[-1]["param_names"] == ["param_3"]


def test_a_group_added_in_the_middle_of_a_window_of_blocks():
    """Other blocks are in turn at once; state without a place is let go, so that what is saved can be loaded."""
    params = tensors({f"layers.{i}.w": (4, 4) for i in range(8)})
    first, later = dict(list(params.items())[:4]), list(params.items())[4:]

    def begin():
        return optimize(first, split="block", update_gap=4, density=0.5)

    def kept(optimizer):
        return {n for n, p in params.items() if optimizer.state.get(p)}

    optimizer = begin()
    advance(optimizer, first, 2)
    before = kept(optimizer)
    optimizer.add_param_group({"params": later})
    assert kept(optimizer) < before
    for step in (2, 3):
        again = begin()
        again.add_param_group({"params": later})
        again.load_state_dict(optimizer.state_dict())
        assert kept(again) == kept(optimizer)
        advance(optimizer, params, 1, step)
        assert len(kept(optimizer)) == 4
