"""Weights trained by losses alone are saved as scalars, and rebuilt from them to the last bit."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hybridopt
from hybridopt import Policy
from hybridopt.saving.replay import steps as replay
from support.paths import TESTS
from support.probing import loss_of, net, weights
from support.replays import DELTA, MIXED, REPLAY, deep, digest, height, metadata, same

pytestmark = pytest.mark.slow

LR = 1e-2
FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
RUNS = {
    "mezo": ("mezo", {}),
    "mezo, gaussian": ("mezo", {"kind": "gaussian"}),
    "mezo, 3 samples": ("mezo", {"samples": 3}),
    "mezo, pool": ("mezo", {"pool": 2}),
    "mezo, clip": ("mezo", {"clip": 0.1, "kind": "gaussian"}),
    "zo_signsgd": ("zo_signsgd", {}),
    "zo_signsgd, gaussian": ("zo_signsgd", {"kind": "gaussian"}),
    "zo_signsgd, 3 samples": ("zo_signsgd", {"samples": 3}),
    "zo_conservative": ("zo_conservative", {}),
    "fzoo": ("fzoo", {"samples": 3}),
    "lezo": ("lezo", {"density": 0.5}),
}


def trained(base, policy, options, steps=5, **more):
    """A model after some steps with a rate that changes, of which one is skipped."""
    more = {"lr": LR, "nonfinite": "skip", "compile": False} | more
    model = hybridopt.wrap(base, policy=policy, seed=3, **options)
    optimizer = model.hybrid.optimizer(**more)
    go_on(model, optimizer, range(steps))
    return model, optimizer


def go_on(model, optimizer, steps):
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = LR / (1 + step // 2)
        loss = (lambda: float("nan")) if step == 1 else lambda: height(model)
        optimizer.step(loss)


@pytest.mark.filterwarnings("ignore:.*the step is skipped")
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("run", RUNS)
def test_a_saved_run_comes_back_to_the_bit(run, dtype, decay, tmp_path):
    model, optimizer = trained(deep(dtype), *RUNS[run], weight_decay=decay)
    assert not same(model, deep(dtype))
    model.hybrid.save_pretrained(tmp_path)
    assert not (tmp_path / DELTA).exists()
    slopes = load_file(tmp_path / REPLAY)["slopes"]
    assert slopes.shape[0] == 5 and slopes[1].isnan().all() and not slopes[0].isnan().any()
    again = hybridopt.from_pretrained(deep(dtype), tmp_path)
    assert same(again, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_neither_threads_nor_the_compiler_change_the_result(dtype, threads, compiled, tmp_path):
    model, _ = trained(deep(dtype), "mezo", {"samples": 2}, compile=compiled, weight_decay=0.1)
    model.hybrid.save_pretrained(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(hybridopt.from_pretrained(deep(dtype), tmp_path), model)
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*the step is skipped")
@pytest.mark.parametrize("tile", [1, 300, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("run", ["mezo", "mezo, gaussian", "zo_signsgd, 3 samples"])
def test_tiles_do_not_change_the_result(run, dtype, tile, tmp_path, monkeypatch):
    def base():
        model = deep(dtype)
        model["table"] = nn.Embedding(13, 70, dtype=dtype)
        return model

    model, _optimizer = trained(base(), *RUNS[run], weight_decay=0.1)
    model.hybrid.save_pretrained(tmp_path)
    monkeypatch.setitem(replay.TILES, "cpu", tile)
    assert (tmp_path / REPLAY).exists() and same(hybridopt.from_pretrained(base(), tmp_path), model)


CHILD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from hashlib import sha256
from support.replays import deep, digest
import hybridopt
print(digest(hybridopt.from_pretrained(deep(torch.bfloat16), sys.argv[2])))
"""


def test_another_process_finds_the_same_sha256(tmp_path):
    model, _ = trained(deep(torch.bfloat16), "mezo", {"kind": "gaussian"}, weight_decay=0.1)
    model.hybrid.save_pretrained(tmp_path)
    command = [sys.executable, "-c", CHILD, str(TESTS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest(model)


def test_a_step_costs_four_bytes(tmp_path):
    sizes = []
    for steps in (1, 201):
        model = hybridopt.wrap(net(), policy="mezo")
        optimizer = model.hybrid.optimizer(lr=1e-4)
        for _ in range(steps):
            optimizer.step(lambda model=model: loss_of(model))
        model.hybrid.save_pretrained(tmp_path / str(steps))
        sizes.append((tmp_path / str(steps) / REPLAY).stat().st_size)
    assert abs(sizes[1] - sizes[0] - 200 * 4) < 32  # the header's numbers have more digits
    text = json.dumps(metadata(tmp_path / "201"))
    assert sizes[1] < 4096 + len(text)


def test_a_changed_rate_costs_four_bytes_and_sixteen_a_group(tmp_path):
    sizes = []
    for every in (40, 1):
        model = hybridopt.wrap(net(), policy="mezo")
        optimizer = model.hybrid.optimizer(lr=1e-4)
        for step in range(40):
            for group in optimizer.param_groups:
                group["lr"] = 1e-4 / (1 + step // every)
            optimizer.step(lambda model=model: loss_of(model))
        model.hybrid.save_pretrained(tmp_path / str(every))
        sizes.append((tmp_path / str(every) / REPLAY).stat().st_size)
    assert len(optimizer.param_groups) == 2 and abs(sizes[1] - sizes[0] - 39 * (4 + 2 * 16)) < 32


@pytest.mark.filterwarnings("ignore:.*the step is skipped")
@pytest.mark.parametrize("run", ["mezo, pool", "lezo"])
def test_resumed_runs_are_saved_as_one(run, tmp_path):
    policy, options = RUNS[run]
    straight, _ = trained(deep(torch.bfloat16), policy, options, 6, weight_decay=0.2)
    model, optimizer = trained(deep(torch.bfloat16), policy, options, 3, weight_decay=0.2)
    model.hybrid.save_pretrained(tmp_path / "half")
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")

    again = hybridopt.from_pretrained(deep(torch.bfloat16), tmp_path / "half")
    other = again.hybrid.optimizer(lr=LR, weight_decay=0.2, nonfinite="skip", compile=False)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    go_on(again, other, range(3, 6))
    assert same(again, straight)
    again.hybrid.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole" / DELTA).exists() and len(load_file(tmp_path / "whole" / REPLAY)["slopes"]) == 6
    assert same(hybridopt.from_pretrained(deep(torch.bfloat16), tmp_path / "whole"), straight)


def test_what_goes_on_without_its_log_is_saved_as_tensors(tmp_path):
    model, _ = trained(net(), "mezo", {}, 1, lr=LR)
    model.hybrid.save_pretrained(tmp_path / "half")
    again = hybridopt.from_pretrained(net(), tmp_path / "half")
    again.hybrid.save_pretrained(tmp_path / "at once")
    optimizer = again.hybrid.optimizer(lr=LR)
    optimizer.step(lambda: loss_of(again))
    assert optimizer.log.broken is None
    again.hybrid.save_pretrained(tmp_path / "whole")
    for name in ("at once", "whole"):
        assert (tmp_path / name / DELTA).exists() and not (tmp_path / name / REPLAY).exists()
    assert same(hybridopt.from_pretrained(net(), tmp_path / "whole"), again)


@pytest.mark.filterwarnings("ignore:.*the step is skipped")
def test_of_a_mixed_run_scalars_hold_what_they_can_and_tensors_the_rest(tmp_path):
    model = hybridopt.wrap(deep(), policy=Policy(MIXED))
    optimizer = model.hybrid.optimizer(lr=LR, nonfinite="skip")
    for step in range(4):
        optimizer.probe(lambda: height(model))
        height(model).backward()
        if step == 2:  # a gradient that is not finite: the step is not made, and the clock stands
            model["table"].weight.grad[0, 0] = float("inf")
        optimizer.step()
        optimizer.zero_grad()
    model.hybrid.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / DELTA)) == ["table.weight"]
    assert len(load_file(tmp_path / REPLAY)["slopes"]) == 3
    assert same(hybridopt.from_pretrained(deep(), tmp_path), model)


def test_addax_subzero_and_adam_on_estimates_are_saved_as_tensors(tmp_path):
    for policy in ("addax", "subzero", "zo_adam", "zo_momentum"):
        model = hybridopt.wrap(net(), policy=policy)
        optimizer = model.hybrid.optimizer(lr=LR)
        optimizer.probe(lambda model=model: loss_of(model))
        if policy == "addax":
            loss_of(model).backward()
        optimizer.step()
        model.hybrid.save_pretrained(tmp_path / policy)
        assert not (tmp_path / policy / REPLAY).exists()
        assert same(hybridopt.from_pretrained(net(), tmp_path / policy), model)


def write_under_no_grad(model, optimizer):
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)


def write_through_data(model, optimizer):
    for p in model.parameters():
        p.data.mul_(1.5)


def load_other_weights(model, optimizer):
    model.load_state_dict(net(seed=5).state_dict())


def join_another_optimizer(model, optimizer):
    model.hybrid.optimizer(lr=LR).step(lambda: loss_of(model))


def step_with_another_optimizer(model, optimizer):
    loss_of(model.requires_grad_(True)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


MEDDLING = [
    write_under_no_grad,
    write_through_data,
    load_other_weights,
    join_another_optimizer,
    step_with_another_optimizer,
]


@pytest.mark.parametrize("when", ["between steps", "between probe and step", "at the end"])
@pytest.mark.parametrize("meddle", MEDDLING)
def test_weights_that_somebody_else_has_written_are_saved_as_tensors(meddle, when, tmp_path):
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=LR)
    optimizer.step(lambda: loss_of(model))
    if when == "between probe and step":
        optimizer.probe(lambda: loss_of(model))
    meddle(model, optimizer)
    if when != "at the end":
        optimizer.step(None if optimizer.slopes else lambda: loss_of(model))
    model.hybrid.save_pretrained(tmp_path)
    assert not (tmp_path / REPLAY).exists()
    assert same(hybridopt.from_pretrained(net(), tmp_path), model)


@pytest.mark.parametrize("when", ["between steps", "between probe and step", "at the end"])
def test_a_single_element_that_somebody_else_has_written_counts(when, tmp_path):
    model = hybridopt.wrap(deep(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=LR)
    optimizer.step(lambda: height(model))
    if when == "between probe and step":
        optimizer.probe(lambda: height(model))
    with torch.no_grad():
        model["table"].weight[-1, -1] += 1
    if when != "at the end":
        optimizer.step(None if optimizer.slopes else lambda: height(model))
    model.hybrid.save_pretrained(tmp_path)
    assert "table.weight" in load_file(tmp_path / DELTA)
    assert same(hybridopt.from_pretrained(deep(), tmp_path), model)


def test_one_tensor_written_by_hand_costs_no_other_its_scalars_where_it_is_not_trained(tmp_path):
    model = hybridopt.wrap(net(), policy="mezo", norms="frozen")
    optimizer = model.hybrid.optimizer(lr=LR)
    optimizer.step(lambda: loss_of(model))
    with torch.no_grad():
        model[1].weight.mul_(2)
    model.hybrid.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / DELTA)) == ["1.weight"] and (tmp_path / REPLAY).exists()
    assert same(hybridopt.from_pretrained(net(), tmp_path), model)


def test_a_state_beside_other_weights_breaks_the_log():
    model, optimizer = trained(net(), "mezo", {}, 1)
    state = copy.deepcopy(optimizer.state_dict())
    for base, whole in ((copy.deepcopy(model.hybrid.unwrap()), True), (net(), False)):
        other = hybridopt.wrap(base, policy="mezo", seed=3).hybrid.optimizer(lr=LR)
        other.load_state_dict(state)
        other.step(lambda base=base: loss_of(base))
        assert (other.log.broken is None) == whole, other.log.broken
    assert "is not what it was when the log was saved" in other.log.broken
    state = other.state_dict()
    other.load_state_dict(state)
    assert "is not what it was" in other.log.broken


def test_a_state_may_be_loaded_before_the_weights():
    model, optimizer = trained(net(), "mezo", {}, 1)
    again = hybridopt.wrap(net(), policy="mezo", seed=3)
    other = again.hybrid.optimizer(lr=LR)
    other.load_state_dict(optimizer.state_dict())
    again.load_state_dict(model.state_dict())
    other.step(lambda: loss_of(again))
    assert other.log.broken is None


def test_copies_keep_a_log_of_their_own():
    model, optimizer = trained(net(), "mezo", {}, 1)
    model2, optimizer2 = copy.deepcopy((model, optimizer))
    optimizer2.step(lambda: loss_of(model2))
    assert optimizer2.log.broken is None and (len(optimizer.log), len(optimizer2.log)) == (1, 2)
    third = copy.copy(optimizer)
    optimizer.step(lambda: loss_of(model))
    third.step(lambda: loss_of(model))
    assert optimizer.log.broken is None and third.log.broken is not None


def test_new_groups_break_the_log():
    model = net()
    params = list(model.named_parameters())
    optimizer = hybridopt.HybridOptimizer(params[:2], lr=LR, policy="mezo")
    optimizer.step(lambda: loss_of(model))
    optimizer.add_param_group({"params": params[2:]})
    optimizer.step(lambda: loss_of(model))
    assert "added" in optimizer.log.broken
    assert optimizer.state_dict()["zeroth_order"]["broken"] == optimizer.log.broken


def test_groups_find_their_rates_in_any_order(tmp_path):
    def optimizer_of(model, order):
        named = dict(model.named_parameters())
        parts = [{"params": [(n, named[n]) for n in names], "lr": lr} for names, lr in order]
        return hybridopt.HybridOptimizer(parts, policy="mezo")

    groups = [(["0.weight", "3.weight"], 1e-2), (["1.weight", "1.bias", "0.bias"], 1e-3)]
    model = hybridopt.wrap(net(), policy="mezo")
    first = optimizer_of(model, groups)
    model.hybrid._optimizers.add(first)
    first.step(lambda: loss_of(model))
    second = optimizer_of(model, groups[::-1])
    second.load_state_dict(first.state_dict())
    del model.hybrid._optimizers._numbers[first]
    model.hybrid._optimizers.add(second)
    second.step(lambda: loss_of(model))
    model.hybrid.save_pretrained(tmp_path)
    assert not (tmp_path / DELTA).exists()
    assert same(hybridopt.from_pretrained(net(), tmp_path), model)


def test_rates_in_tensors_are_rounded_as_in_training(tmp_path):
    model = hybridopt.wrap(net(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=torch.tensor(0.0137), weight_decay=0.37)
    for _ in range(3):
        optimizer.step(lambda: loss_of(model))
    model.hybrid.save_pretrained(tmp_path)
    assert (tmp_path / REPLAY).exists()
    assert same(hybridopt.from_pretrained(net(), tmp_path), model)


def test_tensors_are_saved_on_request(tmp_path):
    model, _ = trained(net(), "mezo", {}, 1)
    model.hybrid.save_pretrained(tmp_path, replay=False)
    assert (tmp_path / DELTA).exists() and not (tmp_path / REPLAY).exists()
    assert same(hybridopt.from_pretrained(net(), tmp_path), model)


def test_the_file_is_a_header_and_three_tensors(tmp_path):
    model, optimizer = trained(net(), "mezo", {"samples": 2}, 1)
    model.hybrid.save_pretrained(tmp_path)
    data, numbers = metadata(tmp_path), load_file(tmp_path / REPLAY)
    assert (data["format"], data["noise"], data["samples"]) == (1, 1, 2)
    assert {n for g in data["groups"] for n in g["traces"]} == set(weights(model))
    assert {k: tuple(x.shape) for k, x in numbers.items()} == {"slopes": (1, 2), "rates": (1, 4), "counts": (1,)}
    assert REPLAY in json.loads((tmp_path / "hybridopt_manifest.json").read_text())["files"]
