"""Losses at several shifts are measured under the same circumstances, and leave no trace."""

import functools
import random
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.optimizer.probing.evaluate import Evaluator
from hybridopt.optimizer.probing.perturb import Perturbation
from support.models import batch, tiny_gpt2, tiny_llama, tiny_resnet
from support.shifted import Functional, add, moved, state, still, subtract, trained

SIDES = [add, subtract]


def of(model, root=True):
    return Evaluator(Perturbation(trained(model), model if root else None))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def loss_of(model, x=None):
    x = torch.ones(6, 4).cumsum(0) if x is None else x
    return lambda: model(x).square().mean()


def states():
    return torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())


def explicit(model, closure_of, shifts):
    """The same losses, of models that were really moved, all from the present random state."""
    now, losses = torch.get_rng_state(), []
    for shift in shifts:
        torch.set_rng_state(now)
        with torch.no_grad():
            losses.append(closure_of(moved(model, shift))().item())
    torch.set_rng_state(now)
    return losses


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_losses_are_those_of_moved_models_under_one_dropout_mask(training, root):
    model = net().train(training)
    model[1].train(training and root)  # the buffers of models that are not known are not either
    before, expected = state(model), explicit(model, loss_of, SIDES)
    evaluator, modes = of(model, root), [m.training for m in model.modules()]
    for _ in range(2):
        torch.manual_seed(0)
        expected = explicit(model, loss_of, SIDES)
        assert evaluator.losses(loss_of(model), SIDES) == expected
        assert state(model) == before and [m.training for m in model.modules()] == modes
    assert len(set(expected)) == 2


def test_transformers_with_dropout():
    model = tiny_gpt2()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    shifts = [still, add, add, subtract, still]
    found = of(model).losses(lambda: model(**batch(model)).loss, shifts)
    assert found[0] == found[4] and found[1] == found[2] and len(set(found)) == 3


def test_random_states_go_on_as_after_one_evaluation():
    model = net()

    def closure():
        noise = random.random() + numpy.random.rand() + torch.rand(()).item()
        return loss_of(model)() * noise

    for shifts in ([add], [add, subtract], [add] * 5):
        for root in (True, False):
            seed()
            with torch.no_grad():
                closure()
            after = states()
            seed()
            found = of(model, root).losses(closure, shifts)
            assert states() == after
            assert len(set(found)) == len(set(shifts))


def seed():
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)


def test_evaluations_repeated_for_missed_parameters_leave_no_trace():
    torch.manual_seed(0)
    model, tokens, calls = Functional(), torch.arange(6).view(1, 6), []
    evaluator = of(model)

    def closure():
        calls.append(torch.rand(()).item())
        return model(tokens) * calls[-1]

    seed()
    torch.rand(())
    after = states()
    for times in (3, 2):
        seed()
        calls.clear()
        expected = explicit(model, lambda m: lambda: m(tokens) * torch.rand(()).item(), SIDES)
        assert evaluator.losses(closure, SIDES) == expected
        assert len(calls) == times and len(set(calls)) == 1 and states() == after


def test_new_code_is_watched_and_a_new_lambda_of_old_code_is_not():
    torch.manual_seed(0)
    model, tokens = nn.ModuleDict({"emb": nn.Embedding(96, 4), "lin": nn.Linear(4, 4)}), torch.arange(4)
    evaluator, perturbation = of(model), None
    perturbation = evaluator._perturbation
    watched = []
    inner = perturbation.shifted
    perturbation.shifted = lambda shift, watch: watched.append(watch) or inner(shift, watch)
    for _ in range(3):
        evaluator.losses(lambda: model["lin"](model["emb"](tokens)).square().mean(), [add])
    assert watched == [True, False, False] and not perturbation.loose

    def tied(m):
        return (m["lin"](m["emb"](tokens)) @ m["emb"].weight.t()).square().mean()

    for closure in (functools.partial(tied, model), lambda: tied(model)):
        assert evaluator.losses(closure, [add]) == explicit(model, lambda m: lambda: tied(m), [add])
    assert perturbation.loose == {"emb.weight"}


def test_batch_norms_keep_their_statistics():
    model = tiny_resnet()
    mixed = tiny_resnet()
    mixed.blocks.eval()
    for m in (model, mixed):
        before, data = state(m), batch(m)
        expected = explicit(m, lambda n, data=data: lambda: n(**data).loss, SIDES)
        assert of(m).losses(lambda m=m, data=data: m(**data).loss, SIDES) == expected
        assert state(m) == before
    m.train()
    with torch.no_grad():
        m(**data)
    assert m.norm.num_batches_tracked == 1


class Statistics(nn.Module):
    """Statistics that are assigned anew, a cache, and a loss that depends on both."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("cache", torch.zeros(0), persistent=False)

    def forward(self):
        if not len(self.cache):
            self.cache = torch.arange(3.0)
        if self.training:
            self.mean = self.mean * 0.9 + self.w.detach() * 0.1
        return (self.w * self.cache + self.mean).sum()


def test_statistics_that_are_assigned_start_alike_and_caches_stay():
    model = Statistics()
    mean = model.mean
    found = of(model).losses(model, [still, still])
    assert found[0] == found[1] and model.mean is mean and not mean.any() and len(model.cache) == 3


def test_a_graph_that_waits_for_its_backward_survives():
    """Addax: losses are measured between a forward pass with gradients and its backward pass."""
    model = net()
    model[2].p = 0.0
    loss = loss_of(model)()
    of(model).losses(loss_of(model), SIDES)
    loss.backward()
    expected = torch.autograd.grad(loss_of(model)(), list(model.parameters()))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def test_micro_batches_are_averaged():
    model = net().eval()
    parts = [loss_of(model, torch.full((2, 4), float(i))) for i in range(3)]
    evaluator = of(model)
    single = [evaluator.losses(part, SIDES) for part in parts]
    assert evaluator.losses(parts, SIDES) == [sum(side) / 3 for side in zip(*single, strict=True)]


@pytest.mark.parametrize(
    "loss", [3, 2.5, numpy.float32(2.5), torch.tensor(2.5, dtype=torch.bfloat16), torch.tensor([[2]])]
)
def test_losses_may_be_numbers_or_tensors_of_one(loss):
    found = of(nn.Linear(1, 1)).losses(lambda: loss, [still])
    assert found == [float(loss)] and type(found[0]) is float


def test_losses_keep_the_bits_that_they_have():
    exact = torch.tensor(1 / 3, dtype=torch.float64)
    assert of(nn.Linear(1, 1)).losses(lambda: exact, [still]) == [1 / 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_losses_that_are_not_finite_are_returned(value):
    found = of(nn.Linear(1, 1)).losses([lambda: torch.tensor(value), lambda: 1.0, lambda: value], [still])
    assert str(found[0]) == str(value)


WRONG = {
    "None; end it with": None,
    r"a tensor of shape \(2,\), torch.float32": torch.zeros(2),
    r"a tensor of shape \(\), torch.complex64": torch.zeros((), dtype=torch.complex64),
    r"a tensor of shape \(\), torch.bool": torch.tensor(True),
    "SimpleNamespace; return its .loss": SimpleNamespace(loss=1.0),
    "returned complex": 1j,
    "returned bool": True,
    "returned str": "0.5",
    "returned tuple": (torch.zeros(()), torch.zeros(3)),
}


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_named(text):
    model = net()
    before, now = state(model), states()
    with pytest.raises(HybridOptError, match=text):
        of(model).losses(lambda: (model(torch.rand(4, 4)), WRONG[text])[1], SIDES)
    assert state(model) == before and states() == now


@pytest.mark.parametrize("wrong", [None, 3.0, [], [1.0], torch.zeros(())])
def test_losses_must_be_given_as_functions(wrong):
    with pytest.raises(HybridOptError, match="function without arguments"):
        of(net()).losses(wrong, SIDES)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("root", [True, False])
def test_an_error_at_any_call_passes_through_and_leaves_no_trace(root, error):
    model = tiny_llama(tie=True)
    data, thrown, evaluator = batch(model), error("stop"), of(model, root)
    before, now = state(model), states()

    def failing(left):
        def closure():
            nonlocal left
            left -= 1
            loss = model(**data).loss + torch.rand(())
            if left == 0:
                raise thrown
            return loss

        return closure

    for at in range(1, 7):
        with pytest.raises(error) as caught:
            evaluator.losses([failing(at), failing(99)], [add, subtract] * 3)
        assert caught.value is thrown and state(model) == before and states() == now
    assert len(evaluator.losses([failing(7), failing(99)], [add, subtract] * 3)) == 6


def backward(model):
    loss = loss_of(model)()
    loss.backward()
    return loss


def gradient(model):
    return torch.autograd.grad(loss_of(model)(), list(model.parameters()))[0].sum()


@pytest.mark.parametrize("closure", [backward, gradient])
@pytest.mark.parametrize("root", [True, False])
def test_closures_that_want_gradients_are_told(closure, root):
    model = net().train(root)  # buffers are of the root
    before, now = state(model), states()
    with pytest.raises(HybridOptError, match="only compute and return the loss: no backward"):
        of(model, root).losses(lambda: closure(model), SIDES)
    assert state(model) == before and states() == now


def stepping(model):
    model[0].weight.data.add_(1)
    model[0].weight.add_(0)


def replacing(model):
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def moving(model):
    model[0].weight.data = model[0].weight.data.clone()


def zeroing(model):
    model[0].weight.grad = None


def adding(model):
    model.register_parameter("more", nn.Parameter(torch.ones(1)))


def removing(model):
    del model[3]


def with_gradients(model):
    with torch.enable_grad():
        (model[0].weight.sum() * 2).backward()


def counting(model):
    model[1].eval().running_mean.add_(1)


CHANGES = {
    stepping: "parameter '0.weight' was written",
    replacing: "parameter '0.weight' was replaced",
    moving: "parameter '0.weight' was moved",
    zeroing: "parameter '0.weight' was given another gradient",
    with_gradients: "parameter '0.weight' was given another gradient",
    adding: "parameter 'more' was added",
    removing: "parameter '3.(weight|bias)' was removed",
    counting: "buffer 'running_mean' of a BatchNorm1d, which is not in training mode, was changed",
}


@pytest.mark.parametrize("change", CHANGES)
def test_closures_that_change_the_model_are_told_what(change):
    model = net()
    model[1].eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    now, hooks = states(), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    def closure():
        loss = loss_of(model)()
        change(model)
        return loss

    with pytest.raises(HybridOptError, match=f"closure has changed the model: .*{CHANGES[change]}.*no step"):
        of(model).losses(closure, SIDES)
    assert states() == now
    assert not any(hooks) and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("root", [True, False])
def test_nothing_turns_into_an_inference_tensor(root):
    model = net().eval()
    before, expected = state(model), explicit(model, loss_of, SIDES)
    seen = []

    def closure():
        seen.append(torch.is_inference_mode_enabled() or torch.is_grad_enabled())
        return loss_of(model)()

    with torch.inference_mode():
        assert of(model, root).losses(closure, SIDES) == expected
    assert not any(seen) and state(model) == before
    assert not any(p.is_inference() or p.data.is_inference() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_of_sixteen_bits_is_warned_of(dtype):
    p = nn.Parameter(torch.ones(3))
    evaluator = Evaluator(Perturbation({"p": p}, None))
    with pytest.warns(HybridOptWarning, match="compute it in float32"):
        evaluator.losses(lambda: p.sum().to(dtype), [lambda name, x: x + 1])
