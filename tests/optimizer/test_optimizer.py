"""What torch promises of its optimizers: rates, schedulers, closures, hooks, GradScaler."""

import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from support.training import SHAPES, advance, assert_same, clock, give, optimize, snapshot, tensors, values

P = torch.nn.Parameter


def test_it_is_a_torch_optimizer():
    params = tensors()
    optimizer = optimize(params)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert "param_names" in repr(optimizer) and "tag" in repr(optimizer)
    assert optimizer.defaults == {"lr": 0.01, "weight_decay": 0.0}
    for group in optimizer.param_groups:
        assert {"tag", "param_names", "lr", "weight_decay", "step", "seed"} <= set(group)
        assert all(isinstance(v, str | int | float | list) for v in group.values())
    tags = {n: g["tag"] for g in optimizer.param_groups for n in g["param_names"]}
    assert tags == {"a.0.weight": "split", "a.1.weight": "split", "a.0.bias": "state-full", "a.1.norm": "state-full"}


@pytest.mark.parametrize("shape", [(), (1,)])
def test_lr_as_a_tensor(shape):
    params, plain = tensors(SHAPES | {"scalar": ()}), tensors(SHAPES | {"scalar": ()})
    lr = torch.full(shape, 0.01)
    optimizer = optimize(params, lr=lr, weight_decay=0.1)
    other = optimize(plain, lr=lr.item(), weight_decay=0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    advance(optimizer, params, 2)
    advance(other, plain, 2)
    for name, p in params.items():
        torch.testing.assert_close(p, plain[name])
    scheduler.step()
    assert all(isinstance(g["lr"], torch.Tensor) for g in optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.005)


def test_lr_changed_by_hand():
    params = tensors()
    optimizer = optimize(params, policy="signsgd")
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    before = values(params)
    advance(optimizer, params, 1)
    for name, p in params.items():
        assert p.detach().equal(before[name] - 0.25 * p.grad.sign())


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda s: 1 / (s + 1)),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda s: 0.9),
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 4], 0.5),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 3),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 6),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 8, cycle_momentum=False),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.ConstantLR(o, 0.5, 3)]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 3),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_set_the_rate_of_torchs_own(name):
    """The rates are those of torch.optim.SGD, the sign steps have just that size, and both resume."""
    params, others = tensors(), tensors()
    mine, theirs = optimize(params, policy="signsgd"), torch.optim.SGD(others.values(), 0.01)

    def go(optimizer, scheduler, steps):
        rates = []
        for step in steps:
            give(params, step)
            before = params["a.0.weight"].detach().clone()
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
            if optimizer is not theirs:
                assert params["a.0.weight"].detach().equal(before - rates[-1] * params["a.0.weight"].grad.sign())
            scheduler.step(*([1.0] if name == "plateau" else []))
        return rates

    schedule = SCHEDULERS[name](mine)
    wanted = go(theirs, SCHEDULERS[name](theirs), range(7))
    assert go(mine, schedule, range(3)) == wanted[:3]
    saved = mine.state_dict(), schedule.state_dict()
    again = optimize(params, policy="signsgd")
    resumed = SCHEDULERS[name](again)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert go(again, resumed, range(3, 7)) == wanted[3:]


def test_hooks_fire_in_order():
    params, calls = tensors(), []
    optimizer = optimize(params)
    give(params, 0)
    for when in (
        "step_pre",
        "step_post",
        "state_dict_pre",
        "state_dict_post",
        "load_state_dict_pre",
        "load_state_dict_post",
    ):
        register = getattr(optimizer, f"register_{when}_hook")
        register(lambda *_, when=when: calls.append(when))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == [
        "step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"
    ]  # fmt: skip


def test_hooks_of_all_optimizers():
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    params, calls = tensors(), []
    optimizer = optimize(params)
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("post")),
    ]
    advance(optimizer, params, 1)
    for hook in hooks:
        hook.remove()
    advance(optimizer, params, 1)
    assert calls == ["pre", "post"]


def test_hooks_may_change_what_is_saved_and_loaded():
    params = tensors()
    optimizer = optimize(params)
    advance(optimizer, params, 2)
    optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "note": 7})
    saved = optimizer.state_dict()
    assert saved["note"] == 7
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda _, given: {k: v for k, v in given.items() if k != "note"})
    optimizer.register_load_state_dict_post_hook(lambda mine: seen.append(len(mine.state)))
    optimizer.load_state_dict(saved)
    assert seen == [4]


def test_closures():
    params, calls = tensors(), []
    optimizer = optimize(params)

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params.values())
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimizer.step(closure).item() for _ in range(3)]
    assert calls == [True] * 3 and losses[0] > losses[1] > losses[2]
    assert optimizer.step() is None

    def broken():
        raise ZeroDivisionError

    before = snapshot(optimizer, params)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(broken)
    assert_same(before, snapshot(optimizer, params))


def test_grad_scaler_skips_steps_with_overflows():
    params = tensors()
    optimizer = optimize(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(3):
        loss = scaler.scale(sum(p.square().sum() for p in params.values()))
        optimizer.zero_grad()
        loss.backward()
        if step == 1:
            params["a.0.bias"].grad[0] = float("inf")
        before = snapshot(optimizer, params)
        with warnings.catch_warnings(action="error"):
            scaler.step(optimizer)
        scaler.update()
        after = snapshot(optimizer, params)
        assert (clock(optimizer) == before[2]) == (step == 1)
        if step == 1:
            assert_same(before, after)
        else:
            torch.testing.assert_close(params["a.0.bias"].grad, 2 * before[0]["a.0.bias"])
    assert scaler.get_scale() == 4.0
