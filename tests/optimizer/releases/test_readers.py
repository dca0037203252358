"""release="fused" and weights that somebody still reads when their gradient is there: exactly what accumulate does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from hybridopt.optimizer.saved_for_backward import still_read
from support.models import batch, tiny_llama
from support.training import assert_same, values


class Borrowing(nn.Module):
    """A head whose weight is read a second time without a gradient."""

    def __init__(self, how="detach"):
        super().__init__()
        self.how, self.body, self.head = how, nn.Linear(6, 6), nn.Linear(6, 6, bias=False)

    def forward(self, x):
        h, w = self.body(x), self.head.weight
        if self.how == "detach":
            return self.head(F.linear(h, w.detach()).tanh())
        if self.how == "data":
            return self.head(F.linear(h, w.data).tanh())
        if self.how == "transposed":
            return self.head((h @ w.detach().t()).tanh())
        if self.how == "row":
            return self.head(h * w.detach()[0])
        if self.how == "no_grad":
            with torch.no_grad():
                view = w[:]
            return self.head(F.linear(h, view).tanh())
        if self.how == "checkpointed":
            return checkpoint(lambda h: self.head(F.linear(h, w.detach()).tanh()), h, use_reentrant=False)
        return self.head(F.linear(h, w).tanh())


def pair(make, **options):
    """The same model twice, with an optimizer of each release."""
    torch.manual_seed(0)
    one = make()
    other = copy.deepcopy(one)
    options = {"lr": 0.1, "policy": "adamw"} | options
    return [
        (m, HybridOptimizer(m.named_parameters(), release=r, **options))
        for m, r in ((one, "accumulate"), (other, "fused"))
    ]


def weights(model):
    return values(dict(model.named_parameters()))


def alike(both, work, steps=3):
    for model, optimizer in both:
        for step in range(steps):
            work(model, torch.randn(4, 6, generator=torch.Generator().manual_seed(step)))
            optimizer.step()
            optimizer.zero_grad()
    assert_same(*(weights(model) for model, _ in both))


@pytest.mark.parametrize("policy", ["adamw", "lomo", "muon"])
@pytest.mark.parametrize("how", ["detach", "data", "transposed", "row", "no_grad", "by hand", "checkpointed"])
def test_a_weight_that_is_read_again_without_a_gradient(how, policy):
    alike(pair(lambda: Borrowing(how), policy=policy), lambda m, x: m(x).square().sum().backward())


def test_other_weights_are_still_freed_within_the_backward_pass():
    model = Borrowing()
    optimizer = HybridOptimizer(model.named_parameters(), lr=0.1, policy="adamw", release="fused")
    model(torch.ones(4, 6)).square().sum().backward()
    assert model.body.weight.grad is None and model.head.weight.grad is not None
    optimizer.step()
    assert model.head.weight.grad is None and optimizer.state[model.head.weight]["step"] == 1


def test_a_graph_that_is_kept_and_run_again_within_the_step():
    """Weights that the kept graph has saved wait for the step, and get the sum."""

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            return (x @ self.w).tanh() @ self.w

    def work(model, x):
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()

    alike(pair(Product), work)


def test_a_penalty_on_gradients():
    def work(model, x):
        x = x.requires_grad_()
        loss = model(x).square().mean()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + slope.square().sum()).backward()

    alike(pair(Borrowing), work)


def test_two_losses_over_one_weight_whose_graphs_were_made_before():
    """The second graph has saved the weight: the first backward pass leaves it alone."""

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            return (x @ self.w).tanh() @ self.w

    def work(model, x):
        first, second = model(x).square().mean(), model(2 * x).mean()
        first.backward()
        second.backward()

    alike(pair(One), work)


def test_a_second_loss_that_meets_an_updated_weight_is_refused_in_hybridopts_words():
    model = Borrowing("by hand")
    optimizer = HybridOptimizer(model.named_parameters(), lr=0.1, policy="adamw", release="fused")
    model(torch.ones(4, 6)).sum().backward()
    with pytest.raises(HybridOptError, match="arrives after its update in this step.*hold"):
        model(torch.ones(4, 6)).sum().backward()
    optimizer.step()


def test_a_weight_that_is_tied_and_read_in_two_modules():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(6, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.body(self.embed((x > 0).long())))

    both = pair(Tied)
    alike(both, lambda m, x: m(x).square().sum().backward())
    model, _ = both[1]
    model(torch.ones(4, 6)).square().sum().backward()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("clip", [{}, {"clip": 0.1, "clip_mode": "tensor"}, {"clip": 0.1}])
def test_clipped_and_held_gradients_of_such_weights(clip):
    def work(model, x):
        optimizer = next(o for m, o in both if m is model)
        with optimizer.hold():
            model(x).square().sum().backward()
        loss = model(x + 1).square().sum()
        optimizer.measure(loss)
        loss.backward()

    both = pair(Borrowing, **clip)
    alike(both, work)


def test_a_view_that_its_owner_keeps_delays_updates_and_changes_nothing():
    both = pair(Borrowing)
    kept = [[p.data for p in model.parameters()] for model, _ in both]
    with pytest.warns(HybridOptWarning, match="kept most gradients until step") as told:
        alike(both, lambda m, x: m(x).square().sum().backward())
    assert len(told) == 1 and kept


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_an_ordinary_model_has_no_such_weights(tied, checkpointing):
    model = tiny_llama(tie=tied)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = hybridopt.wrap(model, policy="adamw").hybrid.optimizer(lr=1e-3, release="fused")
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            out = model(**batch(model), output_hidden_states=True)  # kept alive
        out.loss.backward()
        assert all(p.grad is None for p in model.parameters())
        optimizer.step()


def test_a_compiled_model_has_no_such_weights():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    optimizer = HybridOptimizer(model.named_parameters(), lr=0.1, policy="adamw", release="fused")
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        compiled(torch.ones(4, 6)).square().sum().backward()
        assert all(p.grad is None for p in model.parameters())
        optimizer.step()


def test_counts_of_a_weight_alone():
    found = []
    p = nn.Parameter(torch.ones(2, 2))
    p.register_post_accumulate_grad_hook(lambda p: found.append(still_read(p)))
    (p @ p).sum().backward()
    other = p.detach()
    (p @ p).sum().backward()
    assert found == [False, True] and other is not None
