"""Models whose layers are called in ways of their own, and callers with ways of their own."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hybridopt import HybridOptError
from hybridopt.model.placement.backends.mapped import Mapped
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.in_memory import Settled, place_in_memory_
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.streaming.outputs import tensors_in
from hybridopt.model.placement.units import units
from support.placed import CPU, stand_in

WIDTH = 16


@dataclass
class Result:
    """What no library knows of."""

    hidden: torch.Tensor
    also: dict


class Layer(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.trained = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        y = x * self.trained + self.down(torch.tanh(self.up(x * self.trained)))
        if self.how == "tuple":
            return y, (self.up.weight.sum(), y.detach())
        if self.how == "dict":
            return {"hidden": y}
        if self.how == "dataclass":
            return Result(y, {"more": [y.sum()]})
        return Held(y) if self.how == "object" else y


class Held:
    def __init__(self, hidden):
        self.hidden = hidden


class Model(nn.Module):
    """Frozen layers, each with a trained vector; how they are called is `how`."""

    def __init__(self, how="plain", count=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [Layer(how) for _ in range(count)]
        self.layers = nn.ModuleList([layers[0], layers[1], layers[0], layers[1]] if how == "shared" else layers)
        self.how, self.step = how, 0
        for name, p in self.named_parameters():
            p.requires_grad_("trained" in name)

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            if self.how == "dropped" and (self.step * 7 + number * 5) % 3 == 0:
                continue
            if self.how == "early" and number > self.step:
                break
            if self.how == "inner":  # of a layer only parts are called
                x = x * layer.trained + layer.down(torch.tanh(layer.up(x * layer.trained)))
            elif self.how == "checkpointed":
                x = checkpoint(layer, x, use_reentrant=bool(number % 2))
            elif self.how == "forward":  # as transformers computes again: hooks of the layer itself do not run
                x = checkpoint(layer.forward, x, use_reentrant=False)
            else:
                x = read(layer(x))
        return x


def read(output):
    if isinstance(output, tuple):
        return output[0]
    if isinstance(output, dict):
        return output["hidden"]
    return getattr(output, "hidden", output)


HOWS = (
    "plain",
    "tuple",
    "dict",
    "dataclass",
    "object",
    "shared",
    "dropped",
    "early",
    "inner",
    "checkpointed",
    "forward",
)


def data(step=0):
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(step)).requires_grad_()


def steps(model, count=3):
    """Losses and gradients of some steps, those of the input among them."""
    found = []
    for step in range(count):
        model.step = step
        x = data(step)
        loss = model(x).square().mean()
        loss.backward()
        found += [loss.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p.sub_(0.1 * p.grad)
                    p.grad = None
    return found


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture(params=[Staged, Mapped])
def at(request, tmp_path):
    """A function that places a model."""

    def place(model):
        if request.param is Staged:
            stand_in(model, backend=Poisoned)
        else:
            place_in_memory_(model, Settled(Placement("disk", slots=2, cache=tmp_path), CPU))
        return model

    return place


class Poisoned(Staged):
    """Memory that is not there any more is NaN, so that whoever reads it is seen, and does not crash."""

    poisoned = True


@pytest.mark.parametrize("how", HOWS)
def test_outputs_and_calls_of_every_kind(at, how):
    model = at(Model(how))
    count = len(placed(model).units)
    assert count == (2 if how == "shared" else 4)
    assert equal(steps(model), steps(Model(how)))
    assert len(placed(model).streamer.near) <= 2 and placed(model).traffic.fetches >= count


@pytest.mark.parametrize("how", ["plain", "tuple", "dict", "dataclass", "object"])
def test_tensors_are_found_in_outputs_of_every_kind(how):
    x = data()
    found = list(tensors_in(Layer(how)(x)))
    assert any(each.shape == x.shape and each.requires_grad for each in found)
    assert len(found) == {"tuple": 3, "dataclass": 2}.get(how, 1)
    assert list(tensors_in(["text", None, 1, {"a": (x,)}])) == [x]


def test_a_layer_is_called_by_itself(at):
    model, resident = at(Model()), Model()
    for number in (3, 0, 2, 0):
        assert torch.equal(model.layers[number](data()), resident.layers[number](data()))
    x, y = data(), data()
    (model.layers[1].up(x).sum() + model.layers[2].up(x).sum()).backward()
    (resident.layers[1].up(y).sum() + resident.layers[2].up(y).sum()).backward()
    assert torch.equal(x.grad, y.grad)


def test_a_graph_is_run_through_twice(at):
    found = []
    for model in (at(Model()), Model()):
        x = data()
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append([x.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert equal(*found)


def test_gradients_of_gradients_are_right_or_refused(at):
    found = []
    for model in (Model(), at(Model())):
        x = data()
        try:
            (g,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
            g.square().sum().backward()
            found.append(x.grad)
        except HybridOptError as error:
            assert "create_graph=True" in str(error)
            assert placed(model).streamer.backend.poisoned
            assert equal(steps(model), steps(Model()))
            return
    assert equal([found[0]], [found[1]])


def test_errors_and_interrupts_leave_a_model_that_goes_on(at):
    model = at(Model())
    for error in (KeyboardInterrupt, ValueError):
        for late in (False, True):

            def fail(*_, error=error):
                raise error

            x = data()
            loss = model(x).square().mean()
            if late:
                hook = model.layers[1].trained.register_hook(fail)
                with pytest.raises(error):
                    model(x).sum().backward()
                hook.remove()
                for p in model.parameters():
                    p.grad = None
            del loss
    assert equal(steps(model), steps(Model()))


def test_functional_calls(at):
    model, resident = at(Model()), Model()
    other = {n: p.detach() * 2 for n, p in resident.named_parameters() if "up.weight" in n}
    mine, theirs = (torch.func.functional_call(m, other, (data(),)) for m in (model, resident))
    assert torch.equal(mine, theirs) and not torch.equal(mine, resident(data()))
    assert torch.equal(model(data()), resident(data()))


def test_evaluation_between_steps(at):
    model, resident = at(Model()), Model()
    for each in (model, resident):
        each.found = steps(each, 1)
        with torch.no_grad():
            each.found.append(each.eval()(data(5)))
        with torch.inference_mode():
            each.found.append(each(data(6).detach()).clone())
        each.found += steps(each.train(), 1)
    assert equal(model.found, resident.found)


@pytest.mark.parametrize("backend", ["eager"])
def test_compiled_layers_and_models(backend):
    whole, single, resident = Model(count=2), Model(count=2), Model(count=2)
    for model in (whole, single):
        stand_in(model, backend=Poisoned)
    for layer in single.layers:
        layer.compile(backend=backend)
    expected = steps(resident, 2)
    assert equal(steps(single, 2), expected)
    compiled = torch.compile(whole, backend=backend)
    x = data()
    compiled(x).square().mean().backward()
    assert torch.equal(x.grad, expected[1])


class Two(nn.Module):
    """An encoder, a decoder, and a small list of other things; layers of different sizes."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)])
        self.decoder = nn.ModuleList([nn.ModuleDict({"parts": nn.ModuleList([Layer(""), Layer("")])}) for _ in "ab"])
        self.heads = nn.ModuleList([nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)])


def test_every_list_that_holds_much_is_found():
    names = [unit.name for unit in units(Two())]
    assert names == ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]
