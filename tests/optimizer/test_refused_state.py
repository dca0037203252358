"""Saved state that does not fit is refused, by name, with nothing changed."""

import copy
import re

import pytest
import torch

from hybridopt import HybridOptError
from support.training import advance, assert_same, optimize, snapshot, tensors

SHAPES = {"layers.0.w": (12, 8), "layers.0.b": (12,), "layers.1.w": (6, 20), "layers.2.w": (4, 4), "norm.w": (6,)}


CHANGED = {
    "other names": (dict(SHAPES, extra=(3, 3)), {}, "extra"),
    "a name less": ({k: v for k, v in SHAPES.items() if k != "layers.2.w"}, {}, "layers.2.w"),
    "renamed": ({k.replace("layers.2", "layers.3"): v for k, v in SHAPES.items()}, {}, "layers.[23].w"),
    "other shape": (SHAPES | {"layers.1.w": (20, 6)}, {}, r"layers.1.w.*\[6, 20\].*\(20, 6\)"),
    "other density": (SHAPES, {"density": 0.25}, "layers.0.w.*0.25"),
    "other gap": (SHAPES, {"update_gap": 4}, "update_gap"),
    "other rule": (SHAPES, {"full": "lion"}, "lion"),
    "other codec": (SHAPES, {"codec": "bf16"}, "bf16"),
    "other policy": (SHAPES, {"policy": "adamw"}, "layers.0.*policy it was saved with"),
    "other tag": (SHAPES, {"norms": "free"}, "norm.w"),
    "no state-full part": (SHAPES, {"policy": "signsgd"}, "layers.0.*policy it was saved with"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_state_that_does_not_fit_is_refused(name):
    shapes, options, words = CHANGED[name]
    params, others = tensors(SHAPES), tensors(shapes)
    optimizer, other = optimize(params), optimize(others, **options)
    advance(optimizer, params, 4)
    advance(other, others, 2)
    before = snapshot(other, others)
    with pytest.raises(HybridOptError, match=words):
        other.load_state_dict(optimizer.state_dict())
    assert_same(before, snapshot(other, others))
    advance(other, others, 2, 2)


def test_a_state_in_another_dtype_is_refused():
    params, others = tensors(SHAPES), tensors(SHAPES, torch.float64)
    optimizer, other = optimize(params), optimize(others)
    advance(optimizer, params, 4)
    with pytest.raises(HybridOptError, match="layers.0.*float32.*float64"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_a_state_of_torchs_optimizers_is_called_so(kind, named):
    params = tensors(SHAPES)
    theirs, mine = kind(list(params.items()) if named else list(params.values())), optimize(params)
    advance(theirs, params, 1)
    with pytest.raises(HybridOptError, match="not of a HybridOptimizer.*lr.*torch.*leave load_state_dict out"):
        mine.load_state_dict(theirs.state_dict())
    assert not mine.state


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s["state"][0].pop("exp_avg"), "exp_avg"),
        (lambda s: s["state"][0].update(more=torch.ones(2)), "more"),
        (lambda s: s["state"][0].update(exp_avg=s["state"][0]["exp_avg"].half()), "float16"),
        (lambda s: s["state"][0].update(exp_avg="text"), "exp_avg"),
        (lambda s: s["state"][0].update(step=1.5), "step"),
        (lambda s: s["state"][0].update(window="x"), "window"),
        (lambda s: s["state"][0].pop("window"), "window"),
        (lambda s: s["state"][0].pop("step"), "step"),
        (lambda s: s["param_groups"][0].pop("param_names"), "layers.0.w"),
        (lambda s: s["param_groups"][0].update(treatment="{}"), "layers.0.w"),
        (lambda s: s["param_groups"][0].update(step=None), "step"),
        (lambda s: s["param_groups"].pop(), "norm.w"),
        (lambda s: s.pop("param_groups"), "param_groups"),
        (lambda s: s.pop("state"), "state"),
    ],
    ids=range(14),
)
def test_a_spoiled_state_is_refused(spoil, words):
    params = tensors(SHAPES)
    optimizer = optimize(params)
    advance(optimizer, params, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match=words):
        optimizer.load_state_dict(saved)
    assert_same(before, snapshot(optimizer, params))


def resumed(change, **options):
    """What loading a state says that `change` has changed, after a look that nothing else was changed."""
    params = tensors(SHAPES)
    optimizer = optimize(params, **options)
    advance(optimizer, params, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    change(saved)
    before = snapshot(optimizer, params), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(HybridOptError) as caught:
        optimizer.load_state_dict(saved)
    assert_same(before, (snapshot(optimizer, params), optimizer.state_dict()))
    return str(caught.value)


def group(**changes):
    return lambda saved: saved["param_groups"][0].update(changes)


def groups(**changes):
    return lambda saved: [g.update(changes) for g in saved["param_groups"]]


def entry(key, value):
    return lambda saved: saved["state"][0][key].view(-1)[1:2].fill_(value)


def tensor(key, change):
    return lambda saved: saved["state"][0].update({key: change(saved["state"][0][key])})


NAN, INF = float("nan"), float("inf")
RATES = [NAN, INF, -INF, -1.0, -1e-9, 1e300, 10**400, 10**5000, True, "0.1", None, [0.1], torch.tensor(NAN)]
RATES += [torch.ones(2), torch.ones((), device="meta"), torch.ones(1).to_sparse(), torch.tensor(1), 1j]


@pytest.mark.parametrize("value", RATES, ids=range(len(RATES)))
@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_rates_that_are_none(key, value):
    assert f"{key}" in resumed(group(**{key: value}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["param_groups"][0].pop("lr"), "no 'lr'"),
        (lambda s: s["param_groups"][0].pop("weight_decay"), "no 'weight_decay'"),
        (group(step=-1), "step=-1"),
        (group(step=True), "step=True"),
        (group(step=4.0), "step=4.0"),
        (group(step=torch.tensor(4)), "step="),
        (groups(step=2**31), "step=2147483648"),
        (groups(step=10**5000), "cannot be shown"),
        (group(step=5), "different steps"),
        (group(seed=-1), "seed=-1"),
        (group(seed=True), "seed=True"),
        (groups(seed=10**30), "seed="),
        (groups(seed="7"), "seed='7'"),
        (group(seed=7), "different seeds"),
        (group(tag="frozen"), "another tag"),
        (group(treatment=7), "trained as 'split' with 7"),
        (group(treatment=10**5000), "with a int that cannot be shown"),
        (group(initial_lr=NAN), "initial_lr"),
        (group(grad_norm=-1.0), "grad_norm"),
        (group(more=[1.0, {"x": INF}]), "more"),
        (group(params=[0, 0, 1]), "twice"),
        (group(params=7), "params=7"),
        (group(params=[0]), "3 names for 1"),
        (group(params=[[0], [1], [2]]), "params="),
        (group(param_names=[1, 2, 3]), "param_names"),
        (group(param_names="abc"), "param_names"),
        (group(param_shapes=[[12, 8]]), "param_shapes"),
        (group(param_shapes=7), "param_shapes"),
        (group(param_shapes=[[8, 12], [6, 20], [4, 4]]), "layers.0.w.*was saved with shape"),
        (lambda s: s["param_groups"].__setitem__(1, 7), "param group that is 7"),
        (lambda s: s["param_groups"][1].update(params=s["param_groups"][0]["params"][:1]), "two groups"),
        (lambda s: s["state"].update({99: {"exp_avg": torch.ones(3)}}), "state of 99"),
        (lambda s: s["state"].update({0: [1]}), "parameter 0"),
        (lambda s: s["state"].update({0: torch.ones(2, 2)}), "parameter 0"),
        (lambda s: s["state"][0].update(step=2**31), "step=2147483648"),
        (lambda s: s["state"][0].update(window=2), "window=2"),
        (lambda s: s["state"][0].pop("split.index"), "lacks .'split.index'"),
        (lambda s: [s["state"][0].pop(k) for k in ("exp_avg", "exp_avg_sq")], "lacks"),
    ],
    ids=range(38),
)
def test_groups_and_clocks_that_no_run_leaves(change, words):
    text = resumed(change)
    assert re.search(words, text), text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry("exp_avg", NAN), "'exp_avg' of 'layers.0.w' has NaN"),
        (entry("exp_avg", INF), "NaN or infinity"),
        (entry("exp_avg_sq", -1.0), "negative"),
        (entry("split.index", 99), "index must be rising"),
        (entry("split.index", -1), "index must be rising"),
        (tensor("split.index", lambda x: x.flip(0)), "index must be rising"),
        (tensor("exp_avg", torch.Tensor.to_sparse), "not dense"),
        (tensor("exp_avg", lambda x: x.to("meta")), "meta"),
        (tensor("exp_avg", lambda x: x.to(torch.complex64)), "complex64"),
        (tensor("exp_avg", lambda x: x.T), "shape"),
        (tensor("exp_avg", lambda x: x[:, :0]), "shape"),
    ],
    ids=range(11),
)
def test_tensors_that_no_run_leaves(change, words):
    text = resumed(change)
    assert re.search(words, text), text


def test_scales_of_8_bit_state_are_no_less_than_0():
    codec = {"part": "codecs.int8", "exact_below": 0}
    assert "negative" in resumed(scale(-1.0), codec=codec)
    assert "NaN" in resumed(scale(NAN), codec=codec)


def scale(value):
    return lambda saved: saved["state"][0]["exp_avg_absmax"].fill_(value)


@pytest.mark.parametrize("walk", [(-1, 1), (96, 1), (0, 0), (0, 2), (0, 97), (0, -1)])
def test_walks_over_single_entries_visit_all_of_them(walk):
    change = tensor("split.walk", lambda x: torch.tensor(walk))
    assert "stride prime to it" in resumed(change, split="randk", density=0.5, update_gap=3)


@pytest.mark.parametrize(
    "clock", [(9, 1, 1), (1, 0, 1), (2, 2, 1), (-1, 1, 1), (1, 1, 0), (1, 1, 2), (2**62, 2**62, 1)]
)
def test_clocks_of_lazy_subspaces_are_of_windows_gone_by(clock):
    change = tensor("split.clock", lambda x: torch.tensor(clock))
    options = {"density": 0.5, "update_gap": 8, "codec": "fp32", "spread": False}
    assert "is none of window 0" in resumed(change, policy="qgalore", **options)


def test_bases_that_would_stretch():
    change = tensor("split.basis", lambda x: x * 2)
    assert "length 2" in resumed(change, policy="galore", density=0.5, update_gap=8)


@pytest.mark.parametrize(
    "options", [{"policy": "signsgd"}, {"split": "randk"}, {"split": "columns"}, {"split": "block"}]
)
def test_a_parameter_of_another_shape_of_as_many_elements(options):
    """Of single entries, columns and signs the state alone does not say the shape."""
    one, other = ({"w": torch.nn.Parameter(torch.ones(shape))} for shape in ((6, 4), (4, 6)))
    optimizer, resumed = optimize(one, **options), optimize(other, **options)
    advance(optimizer, one, 1)
    with pytest.raises(HybridOptError, match=r"'w' was saved with shape \[6, 4\], and has \(4, 6\) now"):
        resumed.load_state_dict(optimizer.state_dict())


def test_states_of_older_versions_know_no_shapes():
    params, others = tensors(SHAPES), tensors(SHAPES)
    optimizer, other = optimize(params), optimize(others)
    advance(optimizer, params, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    for old in saved["param_groups"]:
        del old["param_shapes"]
    other.load_state_dict(saved)
    assert_same(other.state_dict(), optimizer.state_dict())
    assert not any("param_shapes" in g for g in other.param_groups)


def test_nan_is_taken_where_it_is_ignored():
    params = tensors(SHAPES)
    optimizer = optimize(params, nonfinite="ignore")
    advance(optimizer, params, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"][0, 0] = NAN
    optimizer.load_state_dict(saved)
    assert_same(optimizer.state_dict(), saved)


def test_a_turn_that_takes_too_long_to_work_out():
    assert "step=2147483647" in resumed(groups(step=2**31 - 1), split="block", update_gap=3)


@pytest.mark.parametrize("given", [None, 7, "state.pt", [], torch.ones(2)], ids=repr)
def test_what_is_no_state_dict(given):
    params = tensors(SHAPES)
    optimizer = optimize(params)
    with pytest.raises(HybridOptError, match="state_dict=.*what optimizer.state_dict"):
        optimizer.load_state_dict(given)


LOGS = {
    "slopes": [7, torch.ones(4), torch.ones(4, 2), torch.ones(4, 1).double(), torch.full((4, 1), INF)],
    "rates": [None, torch.ones(1, 2), torch.full((1, 2), NAN).double(), torch.ones(2, 2).double()],
    "counts": [[4], torch.tensor([5], dtype=torch.int32), torch.tensor([4]), torch.tensor([], dtype=torch.int32)],
    "groups": [7, [7], "ab", ["a"]],
    "origin": [7, {7: 1}, {"w": "x"}, {"w": -1}, {"w": True}],
    "heads": [7, {"w": 7}, {"w": torch.ones(129)}, {"w": torch.ones(2, dtype=torch.int64)}],
    "weights": [None, {"w": 1.5}],
    "broken": [None, 7],
    "surprise": [7],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, found in LOGS.items() for value in found])
def test_logs_that_no_run_leaves(key, value):
    params = tensors(SHAPES)
    optimizer = optimize(params, policy="mezo")
    for _ in range(4):
        optimizer.step(lambda: sum(p.square().sum() for p in params.values()))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["zeroth_order"][key] = value
    before = snapshot(optimizer, params), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(HybridOptError, match="the saved log"):
        optimizer.load_state_dict(saved)
    assert_same(before, (snapshot(optimizer, params), optimizer.state_dict()))
