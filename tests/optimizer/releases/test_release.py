"""Updates within the backward pass: the same bits as in `step()`, each parameter once, gradients gone at once."""

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch

from hybridopt import HybridOptError, HybridOptWarning
from support.training import assert_same, clock, give, gradient, optimize, snapshot, tensors, twin, values

SHAPES = {
    "layers.0.w": (12, 8), "layers.0.b": (12,), "layers.1.w": (6, 20), "layers.2.w": (4, 4), "norm.w": (6,), "s": ()
}  # fmt: skip
POLICIES = {
    "adamw": {"policy": "adamw", "weight_decay": 0.1},
    "signsgd": {"policy": "signsgd"},
    "lomo": {"policy": "lomo"},
    "lion": {"policy": "lion"},
    "badam": {"policy": "badam", "update_gap": 3},
    "columns": {"weight_decay": 0.1},
    "keep": {"reset": False},
    "rows": {"split": "rows", "codec": "bf16"},
    "randk": {"split": "randk"},
    "svd": {"split": "svd", "full": "momentum"},
    "block": {"split": "block", "free": "no_update"},
    "int8": {"codec": {"part": "codecs.int8", "exact_below": 0}},
    "adalomo": {"policy": "adalomo"},
    "adafactor": {"policy": "adafactor"},
    "muon": {"policy": "muon"},
    "scale": {"policy": "scale"},
    "sinkhorn": {"free": "sinkhorn"},
    "whiten": {"free": "whiten", "split": "svd"},
}


def backward(params, step, scale=1.0, names=None):
    """A backward pass that makes the gradients of this step."""
    chosen = {n: p for n, p in params.items() if p.requires_grad and (names is None or n in names)}
    sum((p * (gradient(n, p.shape, step) * scale).to(p.dtype)).sum() for n, p in chosen.items()).backward()


def loss_of(params, step):
    return sum((p * gradient(n, p.shape, step).to(p.dtype)).sum() for n, p in params.items())


def fused(params, **options):
    return optimize(params, release="fused", **options)


def train(optimizer, params, steps, start=0, schedule=None):
    for step in range(start, start + steps):
        backward(params, step)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_the_same_bits_as_accumulate(name, dtype):
    one, other = tensors(SHAPES, dtype), tensors(SHAPES, dtype)
    mine, theirs = fused(one, **POLICIES[name]), optimize(other, **POLICIES[name])
    for step in range(8):
        if step == 4:
            for optimizer in (mine, theirs):
                for group in optimizer.param_groups:
                    group["lr"], group["weight_decay"] = 0.003, 0.05
        before = values(one)
        backward(one, step)
        assert all(p.grad is None for p in one.values())
        assert any(not p.detach().equal(before[n]) for n, p in one.items())
        moved = values(one)
        mine.step()
        mine.zero_grad()
        assert_same(moved, values(one))
        backward(other, step)
        theirs.step()
        theirs.zero_grad()
        assert_same(snapshot(mine, one), snapshot(theirs, other))
    assert clock(mine) == [8] * len(mine.param_groups)


@pytest.mark.parametrize("mode", ["global", "tensor", "previous"])
@pytest.mark.parametrize("name", ["adamw", "columns", "lomo", "badam"])
def test_clipping_is_the_same_in_both(name, mode):
    one, other = tensors(SHAPES), tensors(SHAPES)
    options = POLICIES[name] | {"clip": 3.0, "clip_mode": mode}
    mine, theirs = fused(one, **options), optimize(other, **options)
    for step in range(6):
        if mode == "global":
            assert mine.measure(loss_of(one, step)) > 3 and all(p.grad is None for p in one.values())
        backward(one, step)
        mine.step()
        backward(other, step)
        theirs.step()
        theirs.zero_grad()
        assert_same(mine.grad_norm, theirs.grad_norm)
    assert_same(snapshot(mine, one), snapshot(theirs, other))
    free = tensors(SHAPES)
    train(optimize(free, **POLICIES[name]), free, 6)
    assert name == "adamw" or not all(p.detach().equal(free[n]) for n, p in one.items())


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_what_each_mode_clips(release):
    """SGD with lr 1 shows the gradient as it was used."""

    def used(mode, steps):
        params = tensors(SHAPES)
        optimizer = optimize(params, policy="lomo", lr=1.0, release=release, clip=2.0, clip_mode=mode)
        for step in range(steps):
            before = values(params)
            if mode == "global":
                optimizer.measure(loss_of(params, step))
            backward(params, step)
            optimizer.step()
            optimizer.zero_grad()
        return {n: before[n] - p.detach() for n, p in params.items()}

    def norm(step):
        return torch.stack([gradient(n, s, step).norm() for n, s in SHAPES.items()]).norm()

    for name, got in used("global", 1).items():
        torch.testing.assert_close(got, (gradient(name, got.shape, 0) * 2 / norm(0)).float(), rtol=1e-4, atol=1e-5)
    for mode, steps in (("tensor", 1), ("previous", 1)):
        for name, got in used(mode, steps).items():
            wanted = gradient(name, got.shape, 0)
            wanted = wanted * min(1, 2 / wanted.norm())
            torch.testing.assert_close(got, wanted.float(), rtol=1e-4, atol=1e-5)
    for name, got in used("previous", 2).items():
        torch.testing.assert_close(got, (gradient(name, got.shape, 1) * 2 / norm(0)).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("release", ["accumulate", "fused"])
@pytest.mark.parametrize("clip", [None, 1.0, float("inf")])
def test_the_norm_is_that_of_all_gradients_before_clipping(release, clip):
    params = tensors(SHAPES)
    optimizer = optimize(params, release=release, clip=clip, clip_mode="tensor")
    assert optimizer.grad_norm is None
    for step in range(2):
        backward(params, step)
        optimizer.step()
        wanted = torch.stack([gradient(n, s, step).norm() for n, s in SHAPES.items()]).norm()
        assert optimizer.grad_norm.shape == () and optimizer.grad_norm.item() == pytest.approx(wanted.item())
        optimizer.zero_grad()
        assert (optimizer.grad_norm is None) == (release == "accumulate" and clip is None)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), "1"])
def test_bad_clip(bad):
    with pytest.raises(HybridOptError, match=f"clip={bad!r}"):
        optimize(tensors(), clip=bad)


@pytest.mark.parametrize("options", [{"clip_mode": "norm"}, {"release": "fuse"}])
def test_bad_choices(options):
    params = tensors()
    with pytest.raises(HybridOptError, match="did you mean|Known"):
        optimize(params, **options)
    assert not any(p._post_accumulate_grad_hooks for p in params.values())


def test_the_global_norm_must_be_measured_first():
    params = tensors()
    optimizer = fused(params, clip=1.0)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match="clip_mode='global'.*optimizer.measure.loss.*'previous' or 'tensor'"):
        backward(params, 0)
    assert_same(before, snapshot(optimizer, params))


def test_measuring_leaves_other_tensors_alone():
    params, other = tensors(), torch.nn.Parameter(torch.ones(3))
    optimizer = fused(params, clip=1.0)
    loss = loss_of(params, 0) + other.sum()
    before = snapshot(optimizer, params)
    optimizer.measure(loss)
    assert other.grad is None and not any(p.grad is not None for p in params.values())
    assert_same(before, snapshot(optimizer, params))
    loss.backward()
    assert other.grad.equal(torch.ones(3))
    with pytest.raises(HybridOptError, match="comes before loss.backward"):
        optimizer.measure(loss_of(params, 1))
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "columns", "lomo", "badam", "signsgd"])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_held_passes_add_up(name, clip):
    one, other = tensors(SHAPES), tensors(SHAPES)
    mine, theirs = fused(one, clip=clip, **POLICIES[name]), optimize(other, clip=clip, **POLICIES[name])
    for step in range(4):
        before = values(one)
        for params, optimizer in ((one, mine), (other, theirs)):
            with optimizer.hold():
                backward(params, 10 * step)
                backward(params, 10 * step + 1, names=["layers.0.w", "layers.1.w", "s"])
        assert_same(before, values(one))
        last = [n for n in SHAPES if n not in ("layers.1.w", "s")]  # these get nothing in the last pass
        if clip:
            subset = {n: one[n] for n in last}
            mine.measure(loss_of(subset, 10 * step + 2))
        backward(one, 10 * step + 2, names=last)
        backward(other, 10 * step + 2, names=last)
        for optimizer in (mine, theirs):
            optimizer.step()
            optimizer.zero_grad()
        assert_same(snapshot(mine, one), snapshot(theirs, other))


def test_a_second_backward_pass_without_hold_is_refused_before_its_update():
    params = tensors()
    optimizer = fused(params)
    backward(params, 0)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match="a.*arrives after its update.*optimizer.hold.*use_reentrant=False"):
        backward(params, 1)
    assert_same(before, snapshot(optimizer, params))
    optimizer.zero_grad()
    optimizer.step()
    backward(params, 1)
    assert clock(optimizer) == [1] * len(optimizer.param_groups)


def test_a_gradient_that_comes_back_is_refused():
    """As DDP brings it back from its buckets."""
    params = tensors()
    optimizer = fused(params)
    backward(params, 0)
    params["a.1.norm"].grad = torch.ones(6)
    before = values(params)
    with pytest.raises(HybridOptError, match="a.1.norm.*after its update"):
        optimizer.step()
    assert_same(before, values(params))


def test_gradients_given_by_hand_and_parameters_without():
    one, other = tensors(SHAPES), tensors(SHAPES)
    mine, theirs = fused(one), optimize(other)
    for step in range(4):
        for params in (one, other):
            give(params, step)
            params["layers.1.w"].grad = None
        mine.step()
        theirs.step()
        assert_same(snapshot(mine, one), snapshot(theirs, other))
        mine.zero_grad()
        mine.step()
        backward(one, step, names=["norm.w"])
        theirs.zero_grad()
        backward(other, step, names=["norm.w"])
        mine.step()
        theirs.step()
        assert_same(snapshot(mine, one), snapshot(theirs, other))


def test_a_parameter_unfrozen_on_the_way_is_hooked_by_the_next_step():
    params = tensors()
    params["a.0.weight"].requires_grad_(False)
    optimizer = fused(params)
    train(optimizer, params, 1)
    params["a.0.weight"].requires_grad_(True)
    backward(params, 1)
    before = values(params)
    assert params["a.0.weight"].grad is not None  # not hooked yet: the step takes it
    optimizer.step()
    assert not params["a.0.weight"].detach().equal(before["a.0.weight"])
    optimizer.zero_grad()
    backward(params, 2)
    assert params["a.0.weight"].grad is None


def test_closures_and_schedulers():
    one, other = tensors(), tensors()
    mine, theirs = fused(one), optimize(other)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 5) for o in (mine, theirs)]
    with warnings.catch_warnings(action="error"):
        for step in range(5):
            for params, optimizer, schedule in zip((one, other), (mine, theirs), schedules, strict=True):

                def closure(params=params, optimizer=optimizer, step=step):
                    optimizer.zero_grad()
                    loss = loss_of(params, step)
                    loss.backward()
                    return loss

                assert optimizer.step(closure).shape == ()
                schedule.step()
    assert_same(snapshot(mine, one), snapshot(theirs, other))


# ---- gradients that are not finite


def poisoned(params, step, name, bad=float("nan")):
    """`name` comes second to last in the backward pass."""
    names = [n for n in params if n != name]
    order = [names[0], name, *names[1:]]
    x = torch.ones((), requires_grad=True)
    for n in order:  # a chain, so that the last parameter is first
        p = params[n]
        scale = bad if n == name else 1.0
        x = x + (p * gradient(n, p.shape, step).to(p.dtype) * torch.tensor(scale)).sum().mul(1.0)
    return x


def test_raise_names_the_parameter_and_leaves_it():
    params = tensors()
    optimizer = fused(params)
    train(optimizer, params, 2)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match="a.1.weight.*not finite at step 2.*parameters after it"):
        poisoned(params, 2, "a.1.weight").backward()
    now = snapshot(optimizer, params)
    moved = {n for n in params if not now[0][n].equal(before[0][n])}
    assert "a.1.weight" not in moved and moved
    assert_same(before[1]["a.1.weight"], now[1]["a.1.weight"])
    optimizer.zero_grad()
    optimizer.step()
    train(optimizer, params, 1, 3)
    assert clock(optimizer) == [4] * len(optimizer.param_groups)
    assert all(p.isfinite().all() for p in params.values())


@pytest.mark.parametrize("dropped", [True, False])
def test_after_an_error_the_step_can_be_ended(dropped):
    """By zero_grad() and step(), as the error says; and by step() alone, which has nothing left to use."""
    params = tensors()
    optimizer = fused(params)
    with pytest.raises(HybridOptError, match=r"zero_grad\(\), then optimizer.step\(\), which ends that step"):
        poisoned(params, 0, "a.1.weight").backward()
    assert all(p.grad is None for p in params.values())
    moved = values(params)
    if dropped:
        optimizer.zero_grad()
    optimizer.step()
    assert_same(moved, values(params))
    assert clock(optimizer) == [1] * len(optimizer.param_groups)
    train(optimizer, params, 2, 1)
    assert clock(optimizer) == [3] * len(optimizer.param_groups)
    assert all(p.isfinite().all() for p in params.values())


@pytest.mark.parametrize("first", [True, False])
def test_after_a_sparse_gradient_the_step_can_be_ended(first):
    table, after = torch.nn.Embedding(5, 3, sparse=True), torch.nn.Parameter(torch.ones(3))
    optimizer = fused({"table.weight": table.weight, "after": after}, policy="adamw")
    x = table(torch.tensor([1]))
    with pytest.raises(HybridOptError, match="table.weight.*sparse"):
        (x if first else x * after).sum().backward()
    assert table.weight.grad is None and after.grad is None
    optimizer.step()
    table.sparse = False
    (table(torch.tensor([1])) * after).sum().backward()
    optimizer.step()
    assert set(clock(optimizer)) == {1 if first else 2}


def test_after_a_missing_measure_nothing_is_left_for_half_a_step():
    params = tensors()
    optimizer = fused(params, clip=1.0)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match="optimizer.measure"):
        backward(params, 0)
    optimizer.step()
    assert_same(before, snapshot(optimizer, params))


def test_raise_at_the_first_gradient_changes_nothing():
    params = tensors()
    optimizer = fused(params)
    train(optimizer, params, 3)  # a new window begins with the next
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match="a.0.bias.*not finite at step 3; nothing was changed"):
        (params["a.0.bias"] * float("inf")).sum().backward()
    assert_same(before, snapshot(optimizer, params))


def test_skip_skips_the_parameter_and_says_so_once():
    one, other = tensors(), tensors()
    mine, theirs = fused(one, nonfinite="skip"), fused(other)
    with pytest.warns(HybridOptWarning, match="a.1.*this parameter is skipped, as are others") as caught:
        (poisoned(one, 0, "a.1.weight") + one["a.1.norm"].sum() * float("nan")).backward()
    assert len(caught) == 1 and all(p.grad is None for p in one.values())
    mine.step()
    backward(other, 0, names=["a.0.weight", "a.0.bias"])
    theirs.step()
    assert_same(snapshot(mine, one), snapshot(theirs, other))
    with pytest.warns(HybridOptWarning, match="skipped"):
        sum(p.sum() * float("nan") for p in one.values()).backward()
    mine.step()
    assert clock(mine) == [1] * len(mine.param_groups)  # nothing at all was updated
    assert mine.grad_norm.isnan()


def test_ignore_keeps_nan_in_its_parameter():
    one, other = tensors(), tensors()
    mine, theirs = (
        fused(one, nonfinite="ignore", full="momentum", free="sgd"),
        fused(other, full="momentum", free="sgd"),
    )
    poisoned(one, 0, "a.1.weight").backward()
    backward(other, 0)
    mine.step(), theirs.step()
    assert not one["a.1.weight"].isfinite().all()
    for name in set(one) - {"a.1.weight"}:
        assert one[name].equal(other[name])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_measuring_finds_what_is_not_finite_before_anything_is_changed(bad):
    params = tensors()
    optimizer = fused(params, clip=1.0)
    before = snapshot(optimizer, params)
    with pytest.raises(HybridOptError, match="a.0.weight.*not finite at step 0; nothing was changed"):
        optimizer.measure(poisoned(params, 0, "a.0.weight", bad))
    optimizer.nonfinite = "skip"
    with pytest.warns(HybridOptWarning, match="a.0.weight.*the step is skipped"):
        loss = poisoned(params, 0, "a.0.weight", bad)
        optimizer.measure(loss)
        loss.backward()
    optimizer.step()
    assert_same(before, snapshot(optimizer, params))
    optimizer.measure(loss_of(params, 1))
    train(optimizer, params, 1, 1)
    assert clock(optimizer) == [1] * len(optimizer.param_groups)


def test_huge_gradients_are_finite_though_their_squares_are_not():
    params = tensors({"w": (8, 4)})
    optimizer = fused(params, policy="signsgd", lr=0.5)
    before = values(params)
    (params["w"] * 1e30).sum().backward()
    assert params["w"].detach().equal(before["w"] - 0.5)
    optimizer.step()
    assert optimizer.grad_norm.item() == pytest.approx(32**0.5 * 1e30)


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = fused({"table.weight": table.weight}, policy="adamw")
    before = table.weight.detach().clone()
    with pytest.raises(HybridOptError, match="table.weight.*sparse"):
        table(torch.tensor([1])).sum().backward()
    assert table.weight.equal(before) and not optimizer.state


# ---- copies, files, other optimizers


@pytest.mark.parametrize("mode", [None, "previous"])
@pytest.mark.parametrize("first", ["accumulate", "fused"])
@pytest.mark.parametrize("name", ["adamw", "columns", "badam", "svd"])
def test_saved_by_either_and_resumed_in_the_middle(name, first, mode):
    clip = {"clip": 2.0, "clip_mode": mode} if mode else {}
    whole, parts = tensors(SHAPES), tensors(SHAPES)
    train(fused(whole, **POLICIES[name], **clip), whole, 8)
    one = optimize(parts, release=first, **POLICIES[name], **clip)
    train(one, parts, 4)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    again = twin(parts)
    other = fused(again, **POLICIES[name], **clip)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for group in other.param_groups:
        group["lr"] = 0.01  # of this optimizer's own groups, not of copies that loading made
    train(other, again, 4, 4)
    assert_same(values(again), values(whole))


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_update_their_own_parameters(copier):
    params = tensors(SHAPES)
    optimizer = fused(params, clip=1.5, clip_mode="previous")
    train(optimizer, params, 4)
    others, other = copier((params, optimizer))
    before = snapshot(optimizer, params)
    train(other, others, 3, 4)
    assert_same(before, snapshot(optimizer, params))
    train(optimizer, params, 3, 4)
    assert_same(snapshot(optimizer, params), snapshot(other, others))


def test_loading_keeps_rates_and_hooks_live():
    params = tensors()
    optimizer = fused(params, policy="signsgd")
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    before = values(params)
    backward(params, 0)
    for name, p in params.items():
        assert p.detach().equal(before[name] - 0.25 * gradient(name, p.shape, 0).float().sign())


def test_no_saving_or_loading_in_the_middle_of_a_step():
    params = tensors()
    optimizer = fused(params)
    saved = optimizer.state_dict()
    backward(params, 0)
    for call in (optimizer.state_dict, lambda: optimizer.load_state_dict(saved)):
        with pytest.raises(HybridOptError, match="in the middle of a step.*step"):
            call()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_group_added_on_the_way_is_updated_too():
    params, more = tensors(), tensors({"b.weight": (5, 3)})
    optimizer = fused(params)
    train(optimizer, params, 2)
    optimizer.add_param_group({"params": list(more.items())})
    before = values(more)
    backward(more, 2)
    assert not more["b.weight"].detach().equal(before["b.weight"]) and more["b.weight"].grad is None


def test_two_optimizers_on_one_parameter_are_refused():
    params = tensors()
    optimizer = fused(params)
    for release in ("fused", "accumulate"):
        policy = {"policy": "badam"} if release == "accumulate" else {}
        others = {"layers.0.w": params["a.0.weight"], "layers.1.w": params["a.1.weight"]}
        with pytest.raises(HybridOptError, match="layers.0.w.*another optimizer.*unhook"):
            optimize(others, release=release, **policy)
    optimizer.unhook()
    other = fused(params)
    backward(params, 0)
    other.step()
    assert clock(optimizer) == [0] * len(optimizer.param_groups) and not optimizer.state


def test_unhooked_it_steps_as_any_other():
    one, other = tensors(), tensors()
    mine, theirs = fused(one), optimize(other)
    assert mine.unhook() and not mine.unhook()
    assert not any(p._post_accumulate_grad_hooks for p in one.values())
    train(mine, one, 3)
    train(theirs, other, 3)
    assert_same(snapshot(mine, one), snapshot(theirs, other))
    assert not any(p._post_accumulate_grad_hooks for p in one.values())
    mine.rehook()
    backward(one, 3)
    assert all(p.grad is None for p in one.values())


def test_nothing_is_kept_alive():
    params = tensors()
    optimizer = fused(params)
    train(optimizer, params, 2)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    backward(params, 0)
    assert all(p.grad is not None for p in params.values())
    optimizer = fused(params)  # hooks of what is gone are in nobody's way
    gone = [weakref.ref(p) for p in params.values()] + [weakref.ref(optimizer)]
    del params, optimizer
    gc.collect()
    assert all(ref() is None for ref in gone)


def test_grad_scaler_is_refused():
    params = tensors()
    optimizer = fused(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(loss_of(params, 0)).backward()
    with pytest.raises(HybridOptError, match="GradScaler.*bf16"):
        scaler.step(optimizer)
    assert clock(optimizer) == [0] * len(optimizer.param_groups)
    optimizer.step()
    assert not hasattr(optimizer, "found_inf")


def test_distributed_checkpoint_of_a_fresh_optimizer():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def module():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))

    def go(model, optimizer, steps):
        for step in steps:
            backward(dict(model.named_parameters()), step)
            optimizer.step()

    one, other = module(), module()
    mine = fused(dict(one.named_parameters()), clip=1.0, clip_mode="previous")
    before = values(dict(one.named_parameters()))
    get_optimizer_state_dict(one, mine)
    assert_same(before, values(dict(one.named_parameters())))
    go(one, mine, range(3))
    theirs = fused(dict(other.named_parameters()), clip=1.0, clip_mode="previous")
    set_optimizer_state_dict(other, theirs, get_optimizer_state_dict(one, mine))
    other.load_state_dict(one.state_dict())
    go(one, mine, range(3, 6))
    go(other, theirs, range(3, 6))
    assert_same(values(dict(one.named_parameters())), values(dict(other.named_parameters())))


def test_a_step_can_be_ended_after_a_second_backward_was_refused():
    params = tensors(SHAPES)
    optimizer = fused(params, policy="adamw")
    backward(params, 0)
    once = values(params)
    with pytest.raises(HybridOptError, match="after its update in this step"):
        backward(params, 1)
    optimizer.step()
    assert set(clock(optimizer)) == {1} and all(p.grad is None for p in params.values())
    assert_same(values(params), once)
    backward(params, 1)
    optimizer.step()
    assert set(clock(optimizer)) == {2}


def test_an_optimizer_is_not_copied_in_the_middle_of_a_step():
    params = tensors(SHAPES)
    optimizer = fused(params, policy="adamw")
    backward(params, 0)
    with pytest.raises(HybridOptError, match="copy.. in the middle of a step"):
        copy.deepcopy(optimizer)
    optimizer.step()
    copy.deepcopy(optimizer)
