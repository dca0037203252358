"""AdaFRUGAL: windows that grow while the loss stalls, told, saved and resumed; and refused where nobody tells it."""

import copy
import io
from dataclasses import dataclass, replace

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.core.contracts import GapSchedule
from hybridopt.core.registry import make
from hybridopt.parts import Block, Columns, Linear, Stalling, Svd
from support.training import assert_same, give, optimize, snapshot, tensors

SHAPES = {"layers.0.w": (6, 8), "layers.1.w": (5, 12), "norm.weight": (6,)}
OPTIONS = {"policy": "adafrugal", "update_gap": 4, "longest_gap": 9, "density": Linear(0.5, 0.25, 20)}
FALLING = [10 * 0.9**i for i in range(40)]
STALLED = [2.0 + 1e-4 * i for i in range(40)]


def train(optimizer, params, losses, start=0):
    for i, loss in enumerate(losses, start):
        give(params, i)
        optimizer.observe(loss)
        optimizer.step()
    return snapshot(optimizer, params)


def begins(optimizer):
    return optimizer.state_dict()["windows"]["begins"]


@pytest.mark.parametrize(
    ("gap", "before", "loss", "wanted"),
    [(100, None, 3.0, 100), (100, 3.0, 2.9, 100), (100, 3.0, 3.1, 100), (100, 3.0, 2.99, 150), (100, -3.0, -3.0, 150)]
    + [(900, 3.0, 3.0, 1000), (1000, 3.0, 3.0, 1000), (2000, 3.0, 3.0, 2000), (1, 3.0, 3.0, 2), (100, 0.0, 0.0, 100)],
)
def test_the_next_window(gap, before, loss, wanted):
    assert Stalling()(gap, before, loss) == wanted


def test_windows_grow_only_where_the_loss_stalls():
    for losses, wanted in ((FALLING, list(range(0, 45, 4))), (STALLED, [0, 4, 8, 14, 23, 32, 41])):
        params = tensors(SHAPES)
        optimizer = optimize(params, **OPTIONS)
        train(optimizer, params, losses)
        assert begins(optimizer) == wanted


def test_choice_density_and_age_of_the_state_follow_the_windows():
    params, changes, counts, chosen = tensors(SHAPES), [], [], None
    optimizer = optimize(params, **OPTIONS)
    for i, loss in enumerate(STALLED[:30]):
        train(optimizer, params, [loss], i)
        state = optimizer.state[params["layers.0.w"]]
        now = state["split.index"].tolist()
        if now != chosen or state["step"] == 1:
            assert state["step"] == 1
            changes, chosen, counts = [*changes, i], now, [*counts, len(now)]
    assert changes == begins(optimizer)[:-1] == [0, 4, 8, 14, 23]
    assert counts == [round(8 * Linear(0.5, 0.25, 20)(begin)) for begin in changes]


def test_without_a_stall_it_is_frugal_to_the_bit():
    one, other = tensors(SHAPES), tensors(SHAPES)
    first = train(optimize(one, **OPTIONS), one, FALLING)
    frugal = optimize(other, policy="frugal", update_gap=4, density=OPTIONS["density"])
    second = train(frugal, other, FALLING)  # which takes no notice of the loss
    assert all(one[n].equal(other[n]) for n in one) and len(first) == len(second)


@pytest.mark.parametrize("cut", [1, 4, 11, 14])
@pytest.mark.parametrize("split", ["columns", "block"])
def test_a_resumed_run_goes_on_bit_for_bit(split, cut):
    options = OPTIONS | {"split": split}
    params = tensors(SHAPES)
    optimizer = optimize(params, **options)
    losses = [torch.tensor(loss) for loss in STALLED[:26]]
    train(optimizer, params, losses[:cut])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = {n: torch.nn.Parameter(p.detach().clone()) for n, p in params.items()}
    resumed = optimize(others, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    twins, twin = copy.deepcopy((params, optimizer))
    wanted = train(optimizer, params, losses[cut:], cut)
    assert_same(train(resumed, others, losses[cut:], cut), wanted)
    assert_same(train(twin, twins, losses[cut:], cut), wanted)
    assert begins(resumed) == begins(twin) == begins(optimizer)


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_where_nobody_tells_the_loss_it_is_refused_before_anything_is_changed(release):
    params = tensors(SHAPES)
    optimizer = optimize(params, release=release, **OPTIONS)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match=r"no loss was told.*optimizer\.observe\(loss\)"):
        sum(p.square().sum() for p in params.values()).backward()
        optimizer.step()
    assert_same(snapshot(optimizer, params), before)
    optimizer.zero_grad()
    optimizer.step(lambda: backward(params))  # a closure tells it
    assert begins(optimizer) == [0, 4]
    for _ in range(2):
        backward(params)
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(lambda: backward(params))
    for _ in range(3):
        backward(params)
        optimizer.step()
    with pytest.raises(HybridOptError, match="in the last 3 steps"):
        backward(params)
        optimizer.step()


def backward(params):
    for p in params.values():
        p.grad = None
    loss = sum(p.square().sum() for p in params.values())
    loss.backward()
    return loss


@dataclass(frozen=True)
class Answer(GapSchedule):
    value: object = 0

    def __call__(self, gap, before, loss):
        return self.value


@pytest.mark.parametrize("value", [0, -3, 1.5, True, None, "4", 10**12], ids=str)
def test_a_schedule_that_returns_nonsense_is_refused(value):
    params = tensors({"layers.0.w": (6, 8)})
    policy = Policy((Route(Treatment(split=Columns(0.5, 2), gap=Answer(value))),))
    optimizer = HybridOptimizer(params.items(), policy=policy)
    with pytest.raises(HybridOptError, match=r"Answer at step 2.*gap="):
        train(optimizer, params, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("loss", [torch.ones(2), "1", None, True, 1j, torch.tensor(1j)], ids=str)
def test_what_is_no_loss_is_refused(loss):
    with pytest.raises(HybridOptError, match="observe"):
        optimize(tensors(SHAPES), **OPTIONS).observe(loss)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_say_nothing(bad):
    params = tensors(SHAPES)
    optimizer = optimize(params, **OPTIONS)
    train(optimizer, params, [2.0] * 4 + [bad] * 4 + [2.0] * 9)
    assert begins(optimizer) == [0, 4, 8, 12, 16, 22]


@pytest.mark.parametrize(
    "options",
    [
        {"longest_gap": 0},
        {"gap_factor": 1},
        {"gap_factor": 0.5},
        {"threshold": -1},
        {"threshold": 2},
        {"update_gap": 0},
    ],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(HybridOptError, match="longest|factor|threshold|update_gap"):
        optimize(tensors(SHAPES), **OPTIONS | options)


def test_windows_that_do_not_begin_together_are_refused():
    for split in (None, Svd(0.5, 4)):
        with pytest.raises(HybridOptError, match="windows that begin in the same step"):
            Treatment(gap=Stalling(), **({} if split is None else {"split": split}))
    two = [Route(Treatment(split=Columns(0.5, g), gap=Stalling()), name=n) for g, n in ((2, "layers.0*"), (3, "*"))]
    with pytest.raises(HybridOptError, match="one schedule"):
        HybridOptimizer(tensors(SHAPES).items(), policy=Policy(tuple(two)))
    with pytest.raises(HybridOptError, match="gap="):
        Treatment(split=Block(0.5, 2), gap=5)


@pytest.mark.parametrize(
    "change",
    [{"begins": [0]}, {"begins": [1, 4]}, {"begins": [0, 4, 4]}, {"begins": [0, 2.5]}, {"count": -1}, {"total": "1"}]
    + [{"before": float("nan")}, {"total": None}, {"begins": None}],
    ids=str,
)
def test_spoilt_windows_are_refused(change):
    params = tensors(SHAPES)
    optimizer = optimize(params, **OPTIONS)
    wanted = train(optimizer, params, STALLED[:6])
    saved = optimizer.state_dict()
    for bad in (saved | {"windows": saved["windows"] | change}, {k: x for k, x in saved.items() if k != "windows"}):
        with pytest.raises(HybridOptError, match="windows"):
            optimizer.load_state_dict(bad)
    assert_same(snapshot(optimizer, params), wanted)
    assert begins(optimizer) == [0, 4, 8]


def test_states_and_policies_without_such_windows_are_written_as_ever():
    assert '"gap"' not in Policy((Route(Treatment()),)).to_json()
    there = Policy((Route(Treatment(split=Columns(0.5, 4), gap=Stalling(50))),))
    assert Policy.from_json(there.to_json()) == there
    assert make("policies", "adafrugal").routes[-2].use.gap == Stalling()
    assert replace(make("policies", "adafrugal"), threshold=0.1).routes[-2].use.gap.threshold == 0.1
    assert "windows" not in optimize(tensors(SHAPES)).state_dict()
    assert "windows" not in optimize(tensors(SHAPES), policy="adafrugal", density=0.0).state_dict()
    params = tensors(SHAPES)
    optimizer = optimize(params, policy="adafrugal", split=Svd(0.5, 4, spread=False))
    train(optimizer, params, STALLED[:9])
    assert begins(optimizer) == [0, 4, 8, 14]
