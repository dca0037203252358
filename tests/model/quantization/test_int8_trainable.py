"""quantization="int8-trainable": codes instead of weights, trained, saved and taken back."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.core.numerics.rounding import Seed
from hybridopt.execution import slices
from hybridopt.model.quantization.coded import coded_names
from hybridopt.parts.stores import _int8_weight, int8_trainable
from hybridopt.parts.stores._int8_weight import Int8Weight
from hybridopt.parts.stores.dense import Dense
from hybridopt.parts.stores.int8_trainable import Int8Trainable
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama
from support.quantization import nbytes, quantize_, weight_bytes
from support.reference.qgalore import dequantize, quantize
from support.saved import bits, different, logits, refused, train

SCHEME = "int8-trainable"
MODELS = (tiny_llama, tiny_gpt2, tiny_bert)


def bf16_llama():
    return tiny_llama().bfloat16()


def one_layer():
    return tiny_llama(layers=1)


def wrapped(make=tiny_llama, **options):
    return hybridopt.wrap(make(), quantization=SCHEME, **{"policy": "adamw", "seed": 2} | options)


def codes(model):
    """Every weight that is kept as codes."""
    return {n: p for n, p in model.named_parameters() if isinstance(p, Int8Weight)}


def numbers(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- codes


@pytest.mark.parametrize("shape", [(1, 256), (3, 5), (7, 100), (64, 96)])
@pytest.mark.parametrize("spread", [lambda x: x, lambda x: x.abs() + 1, lambda x: -x.abs() - 1, lambda x: x + 2])
def test_codes_as_restated(shape, spread):
    x = spread(numbers(shape))
    weight, restated = Int8Weight.quantize(x), quantize(x.double().numpy(), 255)
    for mine, theirs in zip(weight.parts().values(), restated, strict=True):
        np.testing.assert_allclose(mine.flatten().double().numpy(), theirs, rtol=1e-5)
    np.testing.assert_allclose(weight.dequantize().numpy(), dequantize(*restated, shape), rtol=1e-5, atol=1e-6)
    assert (weight.dequantize() - x).abs().max() <= weight.scale.max() * 0.5001


def test_a_group_of_one_sign_keeps_its_values():
    """Without 0 in the range the zero point is cut off, and [1, 2] becomes [1, 1]."""
    for x in (torch.linspace(1, 2, 256), -torch.linspace(1, 2, 256), torch.tensor([1.0, 2.0])):
        error = Int8Weight.quantize(x.view(1, -1)).dequantize() - x
        assert error.abs().max() <= 1 / 255
    zeros = torch.zeros(2, 256)
    zeros[1, 3] = 5
    assert Int8Weight.quantize(zeros).dequantize().equal(zeros)


def test_rounding_keeps_the_mean():
    start, update = numbers((8, 64)), numbers((8, 64), 2) * 0.01
    wanted = start * 0.9 - update
    total = torch.zeros_like(start, dtype=torch.float64)
    for seed in range(400):
        weight = Int8Weight.quantize(start)
        weight.write_(wanted, seed * 7919 + 3)
        total += weight.dequantize()
    step = weight.scale.max()
    assert (total / 400 - wanted).abs().max() < step * 0.12  # six deviations of a mean of 400
    assert abs((total / 400 - wanted).mean()) < step * 0.004


def test_tiny_updates_arrive_on_average():
    """A level here is 200 of these updates: rounded to nearest, none would arrive. One run strays by 3 % or so."""
    store, arrived = Int8Trainable(), 0.0
    for run in range(12):
        weight = Int8Weight.quantize(numbers((128, 128)) * 0.02)
        before = weight.dequantize()
        for seed in range(50):
            store.write_(weight, torch.full(weight.shape, 2e-6), 1.0, (50 * run + seed) * 7919 + 1)
        arrived += (before - weight.dequantize()).mean().item() / 12
    assert arrived == pytest.approx(1e-4, rel=0.04)


def test_an_update_of_zero_changes_nothing_in_the_long_run():
    store, weight = Int8Trainable(), Int8Weight.quantize(numbers((64, 64)))
    for seed in range(5):
        store.write_(weight, torch.zeros(weight.shape), 1.0, seed)
    settled = weight.codes.clone()
    for seed in range(5, 25):
        store.write_(weight, torch.zeros(weight.shape), 1.0, seed)
    assert weight.codes.equal(settled)


def test_in_place_operations_write_or_refuse():
    model = wrapped()
    weight = next(iter(codes(model).values()))
    with torch.no_grad():
        weight.fill_(3.0).mul_(2).add_(torch.ones_like(weight))
        assert weight.dequantize().eq(7).all() and type(torch.ones_like(weight)) is torch.Tensor
        weight.detach()[:4].write_(torch.full((4, 64), 2.0))
        assert weight.dequantize()[:4].eq(2).all() and weight.dequantize()[4:].eq(7).all()
        with pytest.raises(HybridOptError, match="foreach_add.*hybridopt's optimizer"):
            torch._foreach_add_([weight], 1.0)
        for view in (lambda: weight[0], lambda: weight[1:3], lambda: weight.view(-1)[3:9], lambda: weight[None]):
            with pytest.raises(HybridOptError, match="view.*dequantize"):
                view()
    assert weight.dequantize()[:4].eq(2).all() and weight.dequantize()[4:].eq(7).all()


# ---- in a model


@pytest.mark.parametrize("make", [*MODELS, bf16_llama])
def test_it_computes_as_its_float_values_do(make):
    model = wrapped(make)
    twin = copy.deepcopy(model)
    twin.hybrid.dequantize()
    assert codes(model) and not codes(twin)
    losses = [m(**batch(m)).loss for m in (model, twin)]
    assert losses[0].equal(losses[1])
    for loss in losses:
        loss.backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert type(p.grad) is torch.Tensor and p.grad.dtype == p.dtype and p.grad.equal(q.grad), name


def test_which_layers_and_what_stays():
    model, plain = wrapped(tiny_gpt2), tiny_gpt2()
    assert len(codes(model)) == 8 and not [n for n in codes(model) if "wte" in n or "wpe" in n or "ln" in n]
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    assert "lm_head.weight" not in codes(wrapped()) and len(codes(wrapped())) == 14
    assert all(p.requires_grad and isinstance(p, nn.Parameter) for p in codes(model).values())
    assert wrapped(tiny_llama, policy="frugal").hybrid.tags["model.layers.0.mlp.up_proj.weight"] == "split"


@pytest.mark.parametrize("make", [tiny_llama, bf16_llama])
def test_bytes_are_planned_and_true(make):
    model = wrapped(make)
    for p in codes(model).values():
        size = sum(x.untyped_storage().nbytes() for x in p.parts().values())
        assert size == weight_bytes(p) == nbytes(p.shape, SCHEME) == p.numel() + 5 * -(-p.numel() // 256)
        assert p.untyped_storage().nbytes() == 0 or p.data_ptr() == 0
    rows = {row.role: row for row in model.hybrid.report().rows}
    linear = rows["linear"]
    assert linear.weight_bytes == sum(nbytes(p.shape, SCHEME) for p in codes(model).values())
    assert linear.grad_bytes == sum(p.numel() * p.dtype.itemsize for p in codes(model).values())


@pytest.mark.parametrize("make", MODELS)
def test_autograd_keeps_codes_only(make):
    model, kept = wrapped(make), []
    shapes = {s for p in codes(model).values() for s in (tuple(p.shape), tuple(p.shape[::-1]))}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        model(**batch(model))
    weights = [x for x in kept if tuple(x.shape) in shapes]
    assert len(weights) >= len(codes(model)) and all(isinstance(x, Int8Weight) for x in weights)


def test_checkpointing_autocast_and_compile():
    model, plain = wrapped(), wrapped()
    plain(**batch(plain)).loss.backward()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**batch(model)).loss.backward()
    assert all(p.grad.equal(q.grad) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        out = plain(**batch(plain))
    assert out.logits.dtype == torch.bfloat16
    plain.zero_grad()
    out.loss.backward()
    for p, q in zip(codes(plain).values(), codes(model).values(), strict=True):
        assert p.grad.dtype == torch.float32 and (p.grad - q.grad).norm() < 0.05 * q.grad.norm()


def test_it_compiles_whole():
    torch._dynamo.reset()
    layer = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    quantize_(layer, SCHEME, ["0"])
    x = numbers((4, 64))
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).square().mean().backward()
    found = layer[0].weight.grad.clone()
    layer.zero_grad()
    layer(x).square().mean().backward()
    torch.testing.assert_close(found, layer[0].weight.grad)


def test_moves_and_casts_keep_the_codes():
    model = wrapped()
    before, ids = bits(model), {n: id(p) for n, p in model.named_parameters()}
    model.bfloat16().float().to("cpu")
    now = bits(model)
    assert all(now[n].equal(before[n]) for n in before if n.endswith(("codes", "scale", "zero")))
    assert {n: id(p) for n, p in model.named_parameters()} == ids and len(codes(model)) == 14


# ---- training


def losses_of(model, steps=20, **options):
    optimizer, found = model.hybrid.optimizer(**{"lr": 5e-3} | options), []
    for step in range(steps):
        loss = model(**batch(model, seed=step % 3)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "adamw"},
        {"policy": "frugal", "density": 0.25, "update_gap": 5},
        {"policy": "frugal", "split": "rows", "update_gap": 5},
        {"policy": "frugal", "split": "randk", "update_gap": 5},
        {"policy": "frugal", "split": "block", "update_gap": 5},
        {"policy": "galore", "update_gap": 5},
        {"policy": "qgalore", "update_gap": 5, "scale": 1.0},
    ],
    ids=lambda o: "-".join(str(v) for v in o.values()),
)
def test_it_learns_as_float_weights_do(options):
    dense = hybridopt.wrap(one_layer(), **options)
    model = wrapped(one_layer, **options)
    start = {n: p.codes.clone() for n, p in codes(model).items()}
    wanted, found = losses_of(dense), losses_of(model)
    assert found[-1] < 0.75 * found[0]
    assert abs(found[-1] - wanted[-1]) < 0.1 * wanted[-1]
    assert len(codes(model)) == 7 and all(not p.codes.equal(start[n]) for n, p in codes(model).items())


@pytest.mark.parametrize("split", ["columns", "rows", "randk", "random"])
def test_a_step_is_that_of_float_weights_rounded(split):
    """One FRUGAL step on codes lies within a level of the step on what they stand for, and elsewhere on average."""
    names, policy = ["0"], hybridopt.wrap(tiny_llama(), split=split, density=0.5).hybrid.policy
    layer = nn.Sequential(nn.Linear(96, 64, bias=False), nn.ReLU(), nn.Linear(64, 3))
    quantize_(layer, SCHEME, names)
    x, biases = numbers((16, 96)), []
    for seed in range(20):
        model, dense = copy.deepcopy(layer), copy.deepcopy(layer)
        dense[0].weight = nn.Parameter(dense[0].weight.detach().dequantize())
        for m in (model, dense):
            m(x).square().mean().backward()
            HybridOptimizer(m.named_parameters(), lr=0.05, weight_decay=0.1, policy=policy, seed=seed).step()
        off = model[0].weight.detach().dequantize() - dense[0].weight.detach()
        assert off.abs().max() <= model[0].weight.scale.max() * 1.01
        biases.append(off.mean() / model[0].weight.scale.mean())
    assert abs(sum(biases) / 20) < 0.01


@pytest.mark.parametrize("policy", ["adamw", "frugal", "signsgd"])
@pytest.mark.parametrize("shape", [(40, 96), (33, 100), (600, 7)])
def test_slices_are_the_whole(monkeypatch, policy, shape):
    """Slices begin where a group does, whatever the width."""
    found = []
    for size in (1 << 17, 1000):
        monkeypatch.setitem(slices.ELEMENTS, "cpu", size)
        p = nn.Parameter(Int8Weight.quantize(numbers(shape)))
        optimizer = HybridOptimizer([("a.0.weight", p)], lr=0.01, policy=policy)
        for step in range(3):
            p.grad = numbers(shape, step)
            optimizer.step()
        found.append(p.parts())
    assert not different(*found)


@pytest.mark.parametrize("policy", ["lomo", "frugal"])
def test_released_in_backward_it_is_the_same(policy):
    found = []
    for release in ("accumulate", "fused"):
        model = wrapped(one_layer)
        optimizer = HybridOptimizer(model.named_parameters(), lr=1e-2, policy=policy, release=release)
        for seed in range(3):
            model(**batch(model, seed=seed)).loss.backward()
            assert (release == "fused") == all(p.grad is None for p in codes(model).values())
            optimizer.step()
            optimizer.zero_grad()
        found.append(bits(model))
    assert not different(*found) and different(found[0], bits(wrapped(one_layer)))


def test_pieces_are_the_whole(monkeypatch):
    """What bounds the float32 copies changes no bit."""
    found = []
    for piece in (1 << 24, 256 * 64):
        monkeypatch.setattr(_int8_weight, "PIECE", piece)
        monkeypatch.setattr(int8_trainable, "PIECE", piece)
        weight = Int8Weight.quantize(numbers((700, 60)))
        Int8Trainable().write_(weight, numbers((700, 60), 2) * 0.01, 0.9, Seed(5, 3))
        found.append(weight.parts())
    assert not different(*found)


def test_backward_after_a_step_is_refused_as_for_float_weights():
    model = wrapped()
    loss = model(**batch(model)).loss
    loss.backward(retain_graph=True)
    model.hybrid.optimizer().step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_training_resumes_to_the_last_bit():
    model = wrapped(policy="frugal", update_gap=2)
    train(model)
    state = model.hybrid.optimizer(lr=1e-2)
    model(**batch(model)).loss.backward()
    state.step()
    twin = copy.deepcopy(model)
    again = twin.hybrid.optimizer(lr=1e-2)
    again.load_state_dict(copy.deepcopy(state.state_dict()))
    for m, optimizer in ((model, state), (twin, again)):
        for seed in range(3):
            optimizer.zero_grad()
            m(**batch(m, seed=seed)).loss.backward()
            optimizer.step()
    assert not different(bits(model), bits(twin))


# ---- saving


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole_and_apart(again):
    model = wrapped()
    train(model)
    twin = again(model)
    before = bits(model)
    assert not different(bits(twin), before) and codes(twin).keys() == codes(model).keys()
    train(twin)
    assert not different(bits(model), before) and different(bits(twin), before)
    train(model)
    assert not different(bits(model), bits(twin))


def test_state_dict_is_plain_and_comes_back():
    model, other = wrapped(), wrapped()
    train(model)
    state = model.state_dict()
    assert {type(x) for x in state.values()} == {torch.Tensor}
    name = "model.layers.0.mlp.up_proj.weight"
    assert name not in state and state[f"{name}.codes"].dtype == torch.uint8
    other.load_state_dict(state)
    assert torch.equal(logits(other), logits(model))
    other.load_state_dict(tiny_llama().state_dict())
    assert torch.equal(logits(other), logits(wrapped())) and len(codes(other)) == 14


@pytest.mark.parametrize("make", [*MODELS, bf16_llama])
def test_round_trip(make, tmp_path):
    model = wrapped(make)
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "hybridopt_delta.safetensors")
    assert {f"{n}.{part}" for n in codes(model) for part in ("codes", "scale", "zero")} <= set(saved)
    assert not set(codes(model)) & set(saved)
    again = hybridopt.from_pretrained(make(), tmp_path)
    assert not different(bits(again), bits(model)) and torch.equal(logits(again), logits(model))
    assert again.hybrid.quantization == SCHEME and again.hybrid.tags == model.hybrid.tags
    train(model)
    train(again)
    assert not different(bits(again), bits(model))
    again.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(make(), tmp_path)), logits(model))


def test_untrained_codes_come_back_too_whatever_the_base_had_there(tmp_path):
    model, base = wrapped(), tiny_llama()
    model.hybrid.save_pretrained(tmp_path)
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight.add_(1)
    assert not different(bits(hybridopt.from_pretrained(base, tmp_path)), bits(model))


def test_as_float_weights_again(tmp_path):
    model = wrapped(bf16_llama)
    optimizer = train(model)
    said = logits(model)
    assert model.hybrid.dequantize() is model and torch.equal(logits(model), said)
    assert list(model.state_dict()) == list(bf16_llama().state_dict()) and not codes(model)
    assert not any(m._state_dict_hooks or m._load_state_dict_pre_hooks for m in model.modules())
    with pytest.raises(HybridOptError, match="no weight is kept as codes"):
        model.hybrid.dequantize()
    model(**batch(model)).loss.backward()
    with pytest.raises(HybridOptError, match="dequantized.*new.load_state_dict"):
        optimizer.step()
    new = model.hybrid.optimizer(lr=1e-3)
    new.load_state_dict(optimizer.state_dict())
    new.step()
    said = logits(model)
    model.hybrid.save_pretrained(tmp_path / "own")
    assert torch.equal(logits(hybridopt.from_pretrained(bf16_llama(), tmp_path / "own")), said)
    model.hybrid.unwrap().save_pretrained(tmp_path / "theirs")
    theirs = type(model).from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16)
    assert not different(bits(theirs), bits(model))
    train(hybridopt.wrap(model, policy="adamw"))


def test_unwrapped_it_goes_on_with_its_codes(tmp_path):
    model = wrapped()
    train(model)
    said = logits(model)
    assert torch.equal(logits(model.hybrid.unwrap()), said) and len(codes(model)) == 14
    model = hybridopt.wrap(model, policy="adamw")
    assert model.hybrid.quantization == SCHEME and list(model.hybrid.quantized) == coded_names(model)
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_a_copy_that_knows_no_base_is_saved_whole(tmp_path):
    model = hybridopt.wrap(copy.deepcopy(wrapped().hybrid.unwrap()), policy="adamw")
    model.hybrid.save_pretrained(tmp_path)
    assert not different(bits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), bits(model))


# ---- refusals


def damaged(folder, change):
    """The folder's delta after a change, with a manifest that says so."""
    from hybridopt.core.files import tensors
    from hybridopt.saving.folder import publish

    file, config = "hybridopt_delta.safetensors", json.loads((folder / "hybridopt_config.json").read_text())
    delta = change(load_file(folder / file))

    def write(to):
        tensors.save(delta, to / file)
        (to / "hybridopt_config.json").write_text(json.dumps(config))

    publish(folder, write)


def test_lost_or_strange_codes_are_refused(tmp_path):
    model = wrapped()
    model.hybrid.save_pretrained(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    damaged(tmp_path, lambda delta: {k: v for k, v in delta.items() if k != f"{name}.scale"})
    refused(tiny_llama(), tmp_path, f"lacks '{name}.scale'")
    model.hybrid.save_pretrained(tmp_path)
    damaged(tmp_path, lambda delta: delta | {f"{name}.codes": delta[f"{name}.codes"][:-1].clone()})
    refused(tiny_llama(), tmp_path, f"'{name}.codes' has shape")
    model.hybrid.save_pretrained(tmp_path)
    refused(model.hybrid.unwrap(), tmp_path, "load it in full precision")


LORA = LoraConfig(r=4, target_modules="all-linear")
REFUSED = {
    "adapters": (tiny_llama, {"peft_config": LORA}, "trains the base weights.*quantization='fp4', 'int8' or 'nf4'"),
    "adapters there": (lambda: get_peft_model(tiny_llama(), LORA), {}, "trains the base weights"),
    "another scheme": (
        lambda: hybridopt.wrap(tiny_llama(), quantization="nf4").hybrid.unwrap(),
        {},
        r"already is quantized \(nf4\)",
    ),
    "nothing to quantize": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1)), {}, "no linear layer to quantize"),
    "a dense store": (
        tiny_llama,
        {"policy": Policy((Route(Treatment(store=Dense())),))},
        "q_proj.weight.*torch.uint8.*its store keeps other dtypes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case):
    make, options, text = REFUSED[case]
    model = make()
    before = bits(model)
    with pytest.raises(HybridOptError, match=text):
        hybridopt.wrap(model, quantization=SCHEME, **options)
    assert not different(bits(model), before) and not codes(model)


def test_other_combinations_are_refused_afterwards():
    model = wrapped()
    with pytest.raises(HybridOptError, match="trains the base weights"):
        hybridopt.wrap(get_peft_model(model.hybrid.unwrap(), LORA))
    model = wrapped().hybrid.unwrap()
    with pytest.raises(HybridOptError, match=r"already is quantized \(int8-trainable\)"):
        hybridopt.wrap(model, quantization="nf4")
    policy = Policy((Route(Treatment(store=Int8Trainable())),))
    with pytest.raises(HybridOptError, match=r"its store keeps other dtypes.*\); leave the store out, or freeze"):
        HybridOptimizer([("w", nn.Parameter(torch.ones(3, 3)))], policy=policy)
    assert hybridopt.wrap(model, quantization=SCHEME, policy="adamw").hybrid.quantization == SCHEME


def test_a_cast_is_a_snapshot():
    weight = Int8Weight.quantize(numbers((32, 64)))
    for cast in (weight.to(torch.bfloat16), weight.double(), weight.to(torch.float32, copy=True)):
        before = cast.dequantize().clone()
        Int8Trainable().write_(weight, torch.ones(32, 64), 1.0, 1)
        assert cast.dequantize().equal(before)
