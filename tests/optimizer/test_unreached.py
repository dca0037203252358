"""Parameters that the first step does not reach are named once, grouped, and nothing else is."""

import warnings

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.checkpoint import checkpoint

import hybridopt
from hybridopt import HybridOptimizer, HybridOptWarning, Policy, Route, Treatment
from hybridopt.optimizer.unreached import places
from hybridopt.parts import SPSA, Empty, SignSGD
from support.models import batch, tiny_llama

FIRST_ORDER = ("adamw", "frugal", "signsgd", "muon", "adalomo")
RELEASES = ("accumulate", "fused")


class Towers(nn.Module):
    """Two towers of which one forward pass uses what `way` says, and two experts of which it uses one."""

    def __init__(self, way="one"):
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.image = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(6)])
        self.way = way

    def forward(self, x):
        h = self.text(x)
        if self.way == "all":
            return sum(expert(h + self.image(x)) for expert in self.experts)
        if self.way == "detached":
            h = h + self.image(x).detach()
        elif self.way == "no_grad":
            with torch.no_grad():
                h = h + self.image(x)
        elif self.way == "checkpointed":
            h = h + checkpoint(self.image, x, use_reentrant=True)
        return self.experts[0](h) + self.experts[3](h)


def loss_of(model):
    return model(torch.ones(2, 4)).square().mean()


def said(action):
    """What hybridopt says while `action` runs."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in found if issubclass(w.category, HybridOptWarning)]


def first_order(model, optimizer, count=3, micro=1):
    def run():
        for _ in range(count):
            for last in range(1, micro + 1):
                if last < micro:
                    with optimizer.hold():
                        loss_of(model).backward()
                else:
                    loss_of(model).backward()
            optimizer.step()
            optimizer.zero_grad()

    return said(run)


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("policy", FIRST_ORDER)
def test_they_are_named_once_by_module_with_counts(policy, release, micro):
    model = hybridopt.wrap(Towers(), policy=policy)
    found = first_order(model, model.hybrid.optimizer(lr=1e-3, release=release), micro=micro)
    assert len(found) == 1
    assert found[0].startswith(
        "12 of 20 parameters got no gradient in the first step: experts.* (8), image (4). That is"
    )
    assert all(cure in found[0] for cure in ("use_reentrant", "enable_input_require_grads", "experts", "freeze"))
    assert len(found[0]) < 700


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("way", ["detached", "no_grad", "checkpointed"])
def test_a_tower_that_is_cut_off(way, release):
    model = hybridopt.wrap(Towers(way), policy="adamw")
    found = first_order(model, model.hybrid.optimizer(lr=1e-3, release=release))
    assert len(found) == 1 and "image (4)" in found[0]


@pytest.mark.parametrize("release", RELEASES)
def test_by_the_bare_optimizer(release):
    model = Towers()
    optimizer = HybridOptimizer(model.named_parameters(), policy="adamw", release=release)
    assert len(first_order(model, optimizer)) == 1


def test_reentrant_checkpoints_of_a_frozen_base():
    """The embedding is frozen, so nothing that enters a checkpoint needs a gradient."""
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = hybridopt.wrap(tiny_llama(), peft_config=config)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.get_base_model().disable_input_require_grads()  # which PEFT has asked for
    optimizer = model.hybrid.optimizer(lr=1e-3)

    def step():
        model(**batch(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found = said(step)
    assert len(found) == 1 and "4 of 5 parameters got no gradient" in found[0]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = model.hybrid.optimizer(lr=1e-3)
    assert said(step) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("policy", [*FIRST_ORDER, "badam", "galore", "lomo"])
def test_nothing_is_said_where_everything_is_reached(policy, release):
    model = hybridopt.wrap(Towers("all"), policy=policy)
    assert first_order(model, model.hybrid.optimizer(lr=1e-3, release=release)) == []


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_is_said_of_idle_and_of_frozen_parameters(release):
    model = hybridopt.wrap(Towers(), policy="badam", update_gap=1)
    model.image.requires_grad_(False)
    model.experts.requires_grad_(False)
    for i in (0, 3):
        model.experts[i].requires_grad_(True)
    assert first_order(model, model.hybrid.optimizer(lr=1e-3, release=release), count=6) == []


def test_nothing_is_said_later():
    """In the first step everything is reached, in the second one some is not."""
    model = hybridopt.wrap(Towers("all"), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    assert first_order(model, optimizer, count=1) == []
    model.way = "one"
    assert first_order(model, optimizer) == []


def test_micro_batches_count_together():
    """Each reaches another tower."""
    for release in RELEASES:
        model = hybridopt.wrap(nn.ModuleDict({n: nn.Linear(4, 4) for n in "ab"}), policy="adamw")
        optimizer = model.hybrid.optimizer(lr=1e-3, release=release)

        def step(model=model, optimizer=optimizer):
            with optimizer.hold():
                loss_of(model["a"]).backward()
            loss_of(model["b"]).backward()
            optimizer.step()

        assert said(step) == []


def test_state_that_distributed_checkpoints_ask_for_is_no_first_step():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = hybridopt.wrap(Towers(), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    assert said(lambda: get_optimizer_state_dict(model, optimizer)) == []
    assert len(first_order(model, optimizer)) == 1


@pytest.mark.parametrize("release", RELEASES)
def test_a_rate_that_warms_up_from_0_is_a_first_step(release):
    model = hybridopt.wrap(Towers(), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    assert len(first_order(model, optimizer, count=1)) == 1


@pytest.mark.parametrize("release", RELEASES)
def test_steps_without_any_gradient(release):
    """One is how loops please schedulers; two mean that gradients are thrown away, or never made."""
    model = hybridopt.wrap(Towers("all"), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release)
    assert said(optimizer.step) == []
    assert first_order(model, optimizer) == []
    optimizer = model.hybrid.optimizer(lr=1e-3)

    def steps():
        for _ in range(5):
            loss_of(model).backward()
            optimizer.zero_grad()
            optimizer.step()

    found = said(steps)
    assert len(found) == 1 and "no parameter had a gradient in two calls of step()" in found[0]


@pytest.mark.parametrize("release", RELEASES)
def test_a_block_in_turn_that_nothing_reaches_is_named(release):
    model = hybridopt.wrap(nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]), policy="badam", update_gap=9)
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release)
    turn = [one.name[0] for one in optimizer._parameters.windows.all() if not one.idle]
    others = nn.Sequential(*[layer for name, layer in model.named_children() if name not in turn])

    def steps():
        for _ in range(2):
            loss_of(others).backward()
            optimizer.step()

    found = said(steps)
    assert (
        turn and len(found) == 1 and f"2 of 2 parameters got no gradient in the first step: {turn[0]} (2)" in found[0]
    )


# ---- probes


def probed(model, optimizer, count=3):
    return said(lambda: [optimizer.step(lambda: loss_of(model)) for _ in range(count)])


@pytest.mark.parametrize("policy", ["mezo", "lezo", "subzero", "fzoo", "zo_adam", "zo_conservative"])
def test_what_no_evaluation_uses(policy):
    model = hybridopt.wrap(Towers(), policy=policy)
    found = probed(model, model.hybrid.optimizer(lr=1e-6))
    assert len(found) == 1
    assert found[0].startswith(
        "12 of 20 parameters were used by no evaluation of the loss in the first step: experts.* (8)"
    )
    assert "reentrant" not in found[0]


@pytest.mark.parametrize("way", ["all", "detached", "no_grad"])
def test_what_evaluations_use_needs_no_gradient(way):
    model = hybridopt.wrap(Towers(way), policy="mezo")
    found = probed(model, model.hybrid.optimizer(lr=1e-6))
    assert not found if way == "all" else len(found) == 1 and "8 of 20" in found[0] and "image" not in found[0]


def test_probes_of_a_step_count_together():
    """By closures of the same code, which are watched once only where everything is used."""
    model = hybridopt.wrap(nn.ModuleDict({n: nn.Linear(4, 4) for n in "abcd"}), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-6)

    def step(heads):
        for head in heads:
            optimizer.probe(lambda head=head: loss_of(nn.Sequential(model["a"], model[head])))
        optimizer.step()

    assert said(lambda: step("bcd")) == []
    optimizer = model.hybrid.optimizer(lr=1e-6)
    found = said(lambda: [step("bc"), step("bc")])
    assert len(found) == 1 and "2 of 8" in found[0] and "d (2)" in found[0]
    watched, perturbation = [], optimizer._probing._probes._evaluator._perturbation
    inner = perturbation.shifted
    perturbation.shifted = lambda shift, watch: watched.append(watch) or inner(shift, watch)
    step("bc")
    assert watched == [False] * 4


def test_evaluations_are_not_counted_up_where_everything_is_used():
    for way in ("all", "one"):
        model, seen = hybridopt.wrap(Towers(way), policy="mezo"), []
        optimizer = model.hybrid.optimizer(lr=1e-6)
        for _ in range(2):
            seen.append(0)

            def closure(model=model, seen=seen):
                seen[-1] += 1
                return loss_of(model)

            said(lambda optimizer=optimizer, closure=closure: optimizer.step(closure))
        assert seen[1] == 2 and (seen[0] == 2) == (way == "all")


def test_addax_reaches_by_either():
    model = hybridopt.wrap(Towers("detached"), policy="addax")
    optimizer = model.hybrid.optimizer()

    def step():
        optimizer.probe(lambda: loss_of(model))
        loss_of(model).backward()
        optimizer.step()

    found = said(step)
    assert len(found) == 1 and found[0].startswith("8 of 20 parameters got no gradient") and "image" not in found[0]


def test_some_by_probes_and_others_by_gradients():
    policy = Policy(
        (Route(Treatment(source=SPSA(), split=Empty(), free=SignSGD()), name="image*"), Route(Treatment()))
    )
    model = hybridopt.wrap(Towers("all"), policy=policy)
    optimizer = model.hybrid.optimizer(lr=1e-6)

    def step():
        optimizer.probe(lambda: loss_of(model))
        loss_of(model).backward()
        optimizer.step()

    assert said(step) == []


@pytest.mark.slow
def test_compiled_code_hides_what_it_uses_and_nothing_is_said_of_that():
    model = hybridopt.wrap(Towers("all"), policy="mezo")
    model.image.compile(backend="eager")
    inner = torch.compile(model.experts[0].forward, backend="eager")
    model.experts[0].forward = inner
    assert probed(model, model.hybrid.optimizer(lr=1e-6), count=1) == []


# ---- words


@pytest.mark.parametrize(
    ("names", "others", "wanted"),
    [
        (["a.b.weight", "a.b.bias"], ["c.weight"], ["a (2)"]),
        (["a.b.weight", "a.b.bias"], ["a.c.weight"], ["a.b (2)"]),
        (["a.weight"], ["a.bias"], ["a.weight (1)"]),
        (["scale"], ["a.bias"], ["scale (1)"]),
        ([f"l.{i}.mlp.w" for i in range(9)], [f"l.{i}.att.w" for i in range(9)], ["l.*.mlp (9)"]),
        (["l.3.mlp.w"], ["l.3.att.w"], ["l.3.mlp (1)"]),
        ([f"{c}.w" for c in "abcdef"], [f"{c}.v" for c in "abcdef"], [*[f"{c}.w (1)" for c in "abcd"], "2 more"]),
    ],
)
def test_places(names, others, wanted):
    assert places(names, others) == wanted
