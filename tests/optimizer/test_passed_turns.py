"""Whose turn it is follows from the seed, the step and what can be trained: in every copy, resumed run and release."""

import copy
import random
import warnings

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from support.training import assert_same, values

BLOCKS = [
    {"policy": "badam", "update_gap": 2},
    {"policy": "badam", "update_gap": 2, "order": "ascending"},
    {"policy": "badam", "update_gap": 3, "order": "descending"},
    {"policy": "frugal", "split": "block", "density": 0.4, "update_gap": 3},
]
RELEASES = ["accumulate", "fused"]


class Towers(nn.Module):
    """Two towers, of which the data reaches one."""

    def __init__(self, layers=3):
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))
        self.vision = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))

    def forward(self, x):
        for layer in self.text:
            x = x + layer(x).tanh()
        return x.square().mean()


def data(step):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(step))


def train(model, optimizer, steps, start=0, micro=1):
    for step in range(start, start + steps):
        with optimizer.hold():
            for i in range(micro - 1):
                model(data(1000 + 10 * step + i)).backward()
        model(data(step)).backward()
        optimizer.step()
        optimizer.zero_grad()


def bare(model, release="accumulate", **options):
    return HybridOptimizer(model.named_parameters(), lr=1e-2, release=release, **options)


def weights(model):
    return values(dict(model.named_parameters()))


def clock(optimizer):
    return optimizer.param_groups[0]["step"]


def told(work):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        work()
    return [str(x.message) for x in found if issubclass(x.category, HybridOptWarning)]


# ---- turns without a gradient


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("options", BLOCKS[:3])
def test_blocks_that_the_data_never_reaches_pass_their_turn(options, micro):
    found = []
    for release in RELEASES:
        model = Towers()
        optimizer, before = bare(model, release, **options), weights(model)
        texts = told(lambda m=model, o=optimizer: train(m, o, 24, micro=micro))
        texts = [text for text in texts if "in the first step" not in text]
        assert clock(optimizer) == 24
        texts = [text for text in texts if "in the first step" not in text]
        assert len(texts) == 1 and "no gradient has reached 'vision." in texts[0] and "requires_grad" in texts[0]
        moved = [n for n, x in weights(model).items() if not x.equal(before[n])]
        assert moved == [n for n in before if n.startswith("text")]
        assert all(p.grad is None for p in model.parameters())
        found.append(weights(model))
    assert_same(*found)


@pytest.mark.parametrize("release", RELEASES)
def test_a_turn_with_some_gradients_is_no_waste(release):
    """Now and then a batch without pictures: no warning, as every window has an update."""
    model = Towers(1)
    optimizer = bare(model, release, policy="badam", update_gap=2)

    def work():
        for step in range(8):
            loss = model(data(step))
            if step % 2 == 0:
                loss = loss + model.vision[0](data(step)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    assert told(work) == [] and clock(optimizer) == 8


@pytest.mark.parametrize("release", RELEASES)
def test_frozen_blocks_have_no_turns(release):
    model = Towers()
    model.vision.requires_grad_(False)
    optimizer, before = bare(model, release, policy="badam", update_gap=1), weights(model)
    assert told(lambda: train(model, optimizer, 3)) == []
    assert all(not x.equal(before[n]) for n, x in weights(model).items() if n.startswith("text"))


@pytest.mark.parametrize("release", RELEASES)
def test_state_of_the_block_before_is_let_go_in_a_turn_without_a_gradient(release):
    model = Towers()
    optimizer = bare(model, release, policy="badam", update_gap=1, order="ascending")
    for step in range(6):
        train(model, optimizer, 1, step)
        assert sum(len(state) > 0 for state in optimizer.state.values()) == (2 if step < 3 else 0)


@pytest.mark.parametrize("release", RELEASES)
def test_a_step_without_any_gradient_is_none(release):
    model = Towers()
    optimizer = bare(model, release, policy="badam", update_gap=1)
    train(model, optimizer, 2)
    optimizer.step()
    assert clock(optimizer) == 2


def test_a_copy_between_backward_and_step_takes_the_same_step():
    model = Towers()
    optimizer = bare(model, policy="badam", update_gap=1, order="descending")  # a vision layer begins
    model(data(0)).backward()
    _, other = copy.deepcopy((model, optimizer))
    optimizer.step()
    other.step()
    assert clock(optimizer) == clock(other) == 1


def test_a_gradient_that_is_not_finite_still_stops_the_clock():
    model = Towers()
    optimizer = bare(model, policy="badam", update_gap=1, order="ascending", nonfinite="skip")
    (model(data(0)) * float("nan")).backward()
    with pytest.warns(HybridOptWarning, match="is not finite"):
        optimizer.step()
    optimizer.zero_grad()
    optimizer.step()  # the dropped gradients of that step are forgotten
    assert clock(optimizer) == 0


def test_a_gradient_scaler_that_finds_no_gradient_is_answered_by_name():
    model = Towers()
    optimizer = bare(model, policy="badam", update_gap=1, order="descending")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(data(0))).backward()
    with pytest.raises(HybridOptError, match="GradScaler.*'vision.2.weight'"):
        scaler.step(optimizer)


# ---- frozen and unfrozen on the way


def flip(model, events):
    for layer, on in events:
        model.text[layer].requires_grad_(on)


@pytest.mark.parametrize("options", BLOCKS)
@pytest.mark.parametrize("seed", range(3))
def test_copies_resumed_runs_and_releases_go_on_alike(options, seed):
    """Layers are frozen and unfrozen at random; a copy is made and a checkpoint loaded at a random step."""
    rnd = random.Random(seed)
    begin = [(k, False) for k in range(1, 5) if rnd.random() < 0.4]
    events = {s: [(rnd.randrange(1, 5), rnd.random() < 0.5)] for s in rnd.sample(range(2, 12), 4)}
    save, before_loading, ends = rnd.randrange(2, 12), rnd.random() < 0.5, []
    for release in RELEASES:
        model = Towers(5)
        flip(model, begin)
        runs = [(model, optimizer := bare(model, release, **options))]
        for step in range(16):
            for one, _ in runs:
                flip(one, events.get(step, ()))
            if step == save:
                runs.append(copy.deepcopy((model, optimizer)))
                other = Towers(5)
                other.load_state_dict(model.state_dict())
                flags = [(k, layer.weight.requires_grad) for k, layer in enumerate(model.text)]
                if before_loading:
                    flip(other, flags)
                again = bare(other, release, **options)
                again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                flip(other, flags)
                runs.append((other, again))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HybridOptWarning)
                for run in runs:
                    train(*run, 1, step)
        assert [clock(o) for _, o in runs] == [16] * 3
        assert_same(weights(runs[0][0]), weights(runs[1][0]))
        assert_same(weights(runs[0][0]), weights(runs[2][0]))
        ends.append(weights(model))
    assert_same(*ends)


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_unfrozen_has_turns_and_what_is_frozen_has_none(release):
    model = Towers()
    model.vision.requires_grad_(False)
    model.text[0].requires_grad_(False)
    optimizer = bare(model, release, policy="badam", update_gap=1)
    train(model, optimizer, 3)
    model.text[0].requires_grad_(True)
    turns = []
    for step in range(3, 9):
        train(model, optimizer, 1, step)
        turns += [k for k, layer in enumerate(model.text) if optimizer.state.get(layer.weight)]
    assert sorted(turns) == [0, 0, 1, 1, 2, 2]
    model.text[1].requires_grad_(False)
    with pytest.warns(HybridOptWarning, match="was frozen since"):
        train(model, optimizer, 1, 9)
    assert not optimizer.state.get(model.text[1].weight)


def test_a_checkpoint_of_the_moment_after_freezing_loads():
    for options in BLOCKS:
        model = Towers()
        optimizer = bare(model, **options)
        train(model, optimizer, 4)
        model.text.requires_grad_(False)
        bare(model, **options).load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_a_wrapped_model_that_was_frozen_on_the_way_is_told_how_to_resume():
    model = hybridopt.wrap(Towers(), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=1e-2)
    train(model, optimizer, 1)
    model.text[0].requires_grad_(False)
    state = copy.deepcopy(optimizer.state_dict())
    other = Towers()
    other.text[0].requires_grad_(False)
    again = hybridopt.wrap(other, policy="adamw").hybrid.optimizer(lr=1e-2)
    with pytest.raises(HybridOptError, match=r"'text.0.*have requires_grad=False in this model.*freeze them again"):
        again.load_state_dict(state)
    other.text[0].requires_grad_(True)
    again = other.hybrid.optimizer(lr=1e-2)
    again.load_state_dict(state)
