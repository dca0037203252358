"""The model changes under its optimizer: followed where that has a meaning, else refused, with nothing changed."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning
from support.training import assert_same, state_of, values

WAYS = [
    ("adamw", "accumulate", {}),
    ("adamw", "fused", {}),
    ("frugal", "accumulate", {"split": "block", "density": 0.4, "update_gap": 2}),
    ("frugal", "fused", {"split": "columns", "density": 0.5, "update_gap": 3}),
    ("badam", "accumulate", {"update_gap": 2}),
    ("badam", "fused", {"update_gap": 2}),
    ("muon", "fused", {}),
    ("mezo", "accumulate", {}),
    ("lezo", "accumulate", {}),
    ("subzero", "accumulate", {"rank": 2, "update_gap": 2}),
    ("zo_adam", "accumulate", {}),
    ("addax", "accumulate", {}),
]
FIRST_ORDER = [way for way in WAYS if way[0] in ("adamw", "frugal", "badam")]
QUIET = pytest.mark.filterwarnings("ignore:the output layer is state-free")


def network(seed=0, layers=4):
    torch.manual_seed(seed)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
        if optimizer.probes_needed:
            optimizer.probe(lambda x=x: model(x).square().mean())
        if optimizer.gradients_needed:
            model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def wrapped(policy="adamw", release="accumulate", frozen=(), **options):
    model = network()
    for index in frozen:
        model[index].requires_grad_(False)
    hybridopt.wrap(model, policy=policy, **options)
    return model, model.hybrid.optimizer(lr=1e-2, release=release)


def named(model):
    return dict(model.named_parameters())


def snapshot(model, optimizer):
    clocks = [group["step"] for group in optimizer.param_groups]
    return copy.deepcopy((values(named(model)), state_of(optimizer, named(model)), clocks))


def told(work):
    """Do the work; return the package's warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        work()
    return [str(x.message) for x in found if issubclass(x.category, HybridOptWarning)]


# ---- replaced


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
def test_training_goes_on_with_its_state_after_load_state_dict_with_assign(policy, release, options):
    one, other = (wrapped(policy, release, **options) for _ in range(2))
    for model, optimizer in (one, other):
        train(model, optimizer, 3)
        if model is one[0]:
            model.load_state_dict({n: x.clone() for n, x in model.state_dict().items()}, assign=True)
        train(model, optimizer, 4, 3)
    assert_same(values(named(one[0])), values(named(other[0])))
    assert_same(state_of(one[1], named(one[0])), state_of(other[1], named(other[0])))
    assert all(p.grad is None for p in one[0].parameters())


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
def test_a_swapped_layer_is_trained_as_if_its_values_had_been_copied(policy, release, options):
    one, other = (wrapped(policy, release, **options) for _ in range(2))
    new = network(1)[1]
    for model, optimizer in (one, other):
        train(model, optimizer, 3)
        if model is one[0]:
            model[1] = copy.deepcopy(new)
        else:
            with torch.no_grad():
                model[1].weight.copy_(new.weight)
                model[1].bias.copy_(new.bias)
        train(model, optimizer, 4, 3)
    assert_same(values(named(one[0])), values(named(other[0])))
    assert_same(*([p.requires_grad for p in model.parameters()] for model, _ in (one, other)))


def test_weights_that_were_replaced_before_the_first_step_are_trained():
    model, optimizer = wrapped()
    model.load_state_dict(network(1).state_dict(), assign=True)
    before = values(named(model))
    train(model, optimizer, 1)
    assert not any(p.equal(before[n]) for n, p in model.named_parameters())


def test_state_that_is_loaded_after_the_weights_were_assigned_belongs_to_them():
    model, optimizer = wrapped()
    train(model, optimizer, 3)
    weights, state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other, again = wrapped()
    other.load_state_dict(weights, assign=True)
    again.load_state_dict(state)
    train(model, optimizer, 3, 3)
    train(other, again, 3, 3)
    assert_same(values(named(model)), values(named(other)))


def test_hooks_and_groups_hold_the_new_tensors_only():
    model, optimizer = wrapped(release="fused")
    train(model, optimizer, 1)
    old = list(model.parameters())
    model.load_state_dict({n: x.clone() for n, x in model.state_dict().items()}, assign=True)
    train(model, optimizer, 1)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert not any(p._post_accumulate_grad_hooks for p in old) and not any(p in optimizer.state for p in old)
    model(torch.ones(4, 8)).sum().backward()
    assert all(p.grad is None for p in model.parameters())  # within the backward pass again


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
@pytest.mark.parametrize("how", ["another layer", "data", "later layers fit"])
def test_another_shape_is_refused_before_anything_is_changed(policy, release, options, how):
    model, optimizer = wrapped(policy, release, **options)
    train(model, optimizer, 3)
    if how == "another layer":
        model[3] = nn.Linear(8, 12)
    elif how == "data":
        model[3].weight.data, model[3].bias.data = torch.randn(5, 8), torch.randn(5)
    else:
        model[1], model[2] = nn.Linear(8, 6), nn.Linear(6, 8)
    before = snapshot(model, optimizer)
    with pytest.raises(HybridOptError, match=r"parameter '\d.weight' had shape \(8, 8\).*make a new optimizer"):
        train(model, optimizer, 1)
    assert_same(snapshot(model, optimizer), before)


def test_resized_embeddings_are_refused_by_name():
    from support.models import batch, tiny_llama

    model = hybridopt.wrap(tiny_llama(), policy="adamw")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    data = batch(model)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model(**data).loss.backward()
    with pytest.raises(HybridOptError, match=r"(embed_tokens|lm_head).weight' had shape .*model.hybrid.optimizer"):
        optimizer.step()


# ---- converted and moved


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_converted_model_goes_on_over_windows_and_its_checkpoint_loads(policy, release, options, dtype):
    model, optimizer = wrapped(policy, release, **options)
    train(model, optimizer, 3)
    model.to(dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the loss is torch.bfloat16")
        train(model, optimizer, 5, 3)
        other, again = wrapped(policy, release, **options)
        other.to(dtype).load_state_dict(model.state_dict())
        again = other.hybrid.optimizer(lr=1e-2, release=release)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(model, optimizer, 3, 8)
        train(other, again, 3, 8)
    assert optimizer.param_groups[0]["step"] == 11
    assert_same(values(named(model)), values(named(other)))


def test_moments_become_float64_with_their_parameter():
    model, optimizer = wrapped()
    train(model, optimizer, 2)
    moments = optimizer.state[model[0].weight]["exp_avg"].clone()
    model.double()
    optimizer.param_groups[0]["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    kept = optimizer.state[model[0].weight]
    assert kept["exp_avg"].dtype == torch.float64 and kept["step"] == 3
    torch.testing.assert_close(kept["exp_avg"], 0.9 * moments.double())


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_a_dtype_that_no_store_keeps_is_refused_before_any_age_is_counted(release):
    params = {name: nn.Parameter(torch.ones(4, 4)) for name in "abc"}
    optimizer = HybridOptimizer(params.items(), lr=1e-3, policy="adamw", release=release)
    optimizer.unhook()
    for p in params.values():
        p.grad = torch.ones(4, 4)
    optimizer.step()
    params["c"].data = params["c"].data.to(torch.float8_e4m3fn)
    for p in params.values():
        p.grad = torch.ones(4, 4).to(p.dtype)
    before = copy.deepcopy(state_of(optimizer, params))
    with pytest.raises(HybridOptError, match="'c' has dtype torch.float8_e4m3fn now"):
        optimizer.step()
    assert_same(state_of(optimizer, params), before)


def test_values_that_are_gone_to_the_meta_device_are_refused():
    model, optimizer = wrapped("mezo")
    train(model, optimizer, 1)
    model[2].to("meta")
    with pytest.raises(HybridOptError, match="'2.weight' is on the meta device now"):
        optimizer.step(lambda: model(torch.ones(4, 8)).sum())
    model[2].to_empty(device="cpu").load_state_dict(network()[2].state_dict())
    train(model, optimizer, 2, 1)


def test_state_follows_its_parameter_to_another_device():
    from hybridopt.optimizer.membership.conversions import _fitted

    assert _fitted(torch.zeros(2), torch.zeros(2, device="meta"), torch.float32).device.type == "meta"
    assert _fitted(torch.zeros(2, dtype=torch.int8), torch.zeros(2), torch.float32).dtype == torch.int8


def test_a_gradient_from_before_its_data_was_replaced_is_refused():
    p = nn.Parameter(torch.ones(4, 4))
    optimizer = HybridOptimizer([("p", p)], lr=1e-3, policy="signsgd")
    p.data = torch.ones(2, 4)
    p.grad = torch.ones(2, 4)
    with pytest.raises(HybridOptError, match=r"'p' had shape \(4, 4\).*and has \(2, 4\)"):
        optimizer.step()


@QUIET
def test_a_log_of_probes_is_given_up_where_weights_were_replaced_or_converted():
    for change in (lambda m: m.bfloat16(), lambda m: m.load_state_dict(network(1).state_dict(), assign=True)):
        model, optimizer = wrapped("mezo")
        optimizer.step(lambda model=model: model(torch.ones(4, 8)).square().mean())
        assert optimizer.log.broken is None
        change(model)
        optimizer.step(
            lambda model=model: model(torch.ones(4, 8, dtype=model[0].weight.dtype)).square().float().mean()
        )
        assert "before step 1" in optimizer.log.broken


# ---- removed, tied, added


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
def test_a_removed_layer_is_let_go_by_name(policy, release, options):
    model, optimizer = wrapped(policy, release, **options)
    train(model, optimizer, 3)
    held = {n: p for n, p in model.named_parameters()}
    del model[1]
    (text,) = [x for x in told(lambda: train(model, optimizer, 2, 3)) if "no longer in the model" in x]
    assert text.startswith("'1.weight' and 1 more are no longer in the model")
    names = {n for group in optimizer.param_groups for n in group["param_names"]}
    assert names == held.keys() - {"1.weight", "1.bias"} and held["1.weight"] not in optimizer.state
    assert told(lambda: train(model, optimizer, 2, 5)) == []


def test_what_leaves_no_parameter_of_its_kind_is_refused():
    model, optimizer = wrapped()
    train(model, optimizer, 1)
    for index in range(4):
        model[index] = nn.Sequential(nn.Linear(8, 8))
    before = snapshot(model, optimizer)
    with pytest.raises(HybridOptError, match="'0.weight' and . more are no longer in the model.*new optimizer"):
        train(model, optimizer, 1)
    assert_same(snapshot(model, optimizer), before)


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
def test_a_weight_that_is_tied_later_is_trained_once(policy, release, options):
    model, optimizer = wrapped(policy, release, **options)
    train(model, optimizer, 2)
    model[2].weight = model[0].weight
    assert "'2.weight' is tied to '0.weight' now, and is trained as that" in told(lambda: train(model, optimizer, 3))
    assert not any("2.weight" in group["param_names"] for group in optimizer.param_groups)


def test_two_weights_that_are_replaced_by_one_are_one():
    model, optimizer = wrapped()
    train(model, optimizer, 2)
    model[2].weight = model[0].weight = nn.Parameter(torch.randn(8, 8))
    assert told(lambda: train(model, optimizer, 1)) == ["'2.weight' is tied to '0.weight' now, and is trained as that"]
    assert optimizer.state[model[0].weight]["step"] == 3


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
def test_an_added_layer_is_told_once_with_the_cure(policy, release, options):
    model, optimizer = wrapped(policy, release, **options)
    train(model, optimizer, 1)
    model.add_module("4", nn.Linear(8, 8))
    (text,) = [x for x in told(lambda: train(model, optimizer, 3)) if "'4.weight'" in x]
    assert "'4.weight' and 1 more are not trained" in text and "call model.hybrid.optimizer(...) again" in text


def test_a_layer_that_the_policy_freezes_is_told_when_it_is_unfrozen():
    model = network()
    hybridopt.wrap(model, policy="frugal", biases="frozen")
    optimizer = model.hybrid.optimizer(lr=1e-2)
    model[1].bias.requires_grad_(True)
    (text,) = told(lambda: train(model, optimizer, 2))
    assert "'1.bias' is not trained by this optimizer, as the policy freezes them" in text


def test_what_two_optimizers_share_out_is_no_news():
    model = network()
    pairs = list(model.named_parameters())
    one, other = (HybridOptimizer(part, lr=1e-2, policy="adamw", module=model) for part in (pairs[:4], pairs[4:]))

    def work():
        for _ in range(2):
            model(torch.ones(4, 8)).sum().backward()
            one.step()
            other.step()

    assert told(work) == []
    model.add_module("4", nn.Linear(8, 8))
    assert all("add_param_group" in text for text in told(work))


def test_names_that_others_change_are_not_missed():
    """Pruning and checkpoint wrappers put the same tensors elsewhere."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.nn.utils import prune

    model, optimizer = wrapped()
    train(model, optimizer, 1)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    model[1] = checkpoint_wrapper(model[1])
    before = [p.detach().clone() for p in model.parameters()]
    assert told(lambda: train(model, optimizer, 2)) == []
    assert not any(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


# ---- unfrozen


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), FIRST_ORDER)
def test_what_is_unfrozen_later_is_trained_as_if_it_had_been_held(policy, release, options):
    """The bare optimizer holds frozen parameters from the beginning; a wrapped model's meets them later."""
    one, other = wrapped(policy, release, frozen=(0, 2), **options), network()
    for index in (0, 2):
        other[index].requires_grad_(False)
    roles = {p.name: p for p in hybridopt.model.roles.params(other)}
    bare = HybridOptimizer(other.named_parameters(), lr=1e-2, policy=policy, release=release, roles=roles, **options)
    for model, optimizer in (one, (other, bare)):
        train(model, optimizer, 3)
        model[2].requires_grad_(True)
        train(model, optimizer, 4, 3)
        model[0].requires_grad_(True)
        assert told(lambda m=model, o=optimizer: train(m, o, 6, 7)) == []
        assert all(p.grad is None for p in model.parameters())
    assert_same(values(named(one[0])), values(named(other)))


@QUIET
@pytest.mark.parametrize(("policy", "release", "options"), WAYS)
def test_a_run_with_unfrozen_layers_is_resumed_by_an_optimizer_of_the_model_as_it_is(policy, release, options):
    model, optimizer = wrapped(policy, release, frozen=(0, 1), **options)
    groups = len(optimizer.param_groups)
    train(model, optimizer, 2)
    model.requires_grad_(True)
    train(model, optimizer, 3, 2)
    assert len(optimizer.param_groups) == groups  # schedulers count them
    other, again = wrapped(policy, release, **options)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 9, 5)
    train(other, again, 9, 5)
    assert_same(values(named(model)), values(named(other)))


@QUIET
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_turns_by_position_do_not_depend_on_who_joined_when(order):
    def make(frozen):
        model = nn.Sequential(*network(layers=2), nn.LayerNorm(8), *network(layers=2))
        for index in frozen:
            model[index].requires_grad_(False)
        hybridopt.wrap(model, policy="badam", order=order, update_gap=1)
        return model, model.hybrid.optimizer(lr=1e-2)

    model, optimizer = make((0, 1))  # so that the group of the norm comes first
    train(model, optimizer, 2)
    model.requires_grad_(True)
    train(model, optimizer, 2, 2)
    other, again = make(())
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 7, 4)
    train(other, again, 7, 4)
    assert_same(values(named(model)), values(named(other)))


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_a_copy_of_model_and_optimizer_follows_its_own_model(release):
    both = wrapped(release=release, frozen=(0,))
    train(*both, 2)
    twin = copy.deepcopy(both)
    for model, optimizer in (both, twin):
        model.requires_grad_(True)
        model[1] = copy.deepcopy(network(1)[1])
        train(model, optimizer, 3, 2)
    assert_same(values(named(both[0])), values(named(twin[0])))
    assert both[1].state[both[0][0].weight]["step"] == 3 and twin[1].state[twin[0][1].weight]["step"] == 5
    copy.deepcopy(both[1]).step()  # alone: no model is known


def test_schedulers_go_on_when_layers_are_unfrozen():
    model, optimizer = wrapped(frozen=(0,))
    schedule, groups = LambdaLR(optimizer, lambda step: 1 / (step + 1)), len(optimizer.param_groups)
    train(model, optimizer, 1)
    schedule.step()
    model.requires_grad_(True)
    train(model, optimizer, 1, 1)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-2 / 3] * groups)


# ---- without a model


def test_steps_without_any_gradient_are_told_where_the_model_is_not_known():
    model = network()
    optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy="adamw")
    train(model, optimizer, 1)
    model.load_state_dict(network(1).state_dict(), assign=True)
    assert told(lambda: train(model, optimizer, 2)) == []
    (text,) = told(lambda: train(model, optimizer, 4))
    assert "no gradient at all 3 times in a row" in text and "make a new one" in text


@QUIET
@pytest.mark.parametrize("policy", ["mezo", "zo_adam", "fzoo"])
def test_probes_that_measure_nothing_any_more_are_refused_where_the_model_is_not_known(policy):
    model = network()
    optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy=policy)
    train(model, optimizer, 2)
    model.load_state_dict(network(1).state_dict(), assign=True)
    with pytest.raises(HybridOptError, match="no parameter of this optimizer was used"):
        train(model, optimizer, 1)


def test_a_look_calls_no_function_for_each_parameter():
    from support.calls import counted

    counts = []
    for layers in (2, 40):
        model = network(layers=layers)
        optimizer = hybridopt.wrap(model, policy="adamw").hybrid.optimizer(lr=1e-2)
        train(model, optimizer, 2)
        with counted() as calls:
            optimizer._membership.follow()
        counts.append(len(calls))
    assert counts[0] == counts[1] <= 24
