"""Quantized weights that were changed after `wrap`: what is saved comes back to the last bit, or is refused."""

import copy

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving import manifest
from support.models import tiny_gpt2, tiny_llama
from support.saved import bits, different, logits, refused, train

SCHEMES = ("nf4", "fp4", "int8")
QUERY = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
DELTA = "hybridopt_delta.safetensors"


def llama():
    return tiny_llama(layers=1)


def bf16():
    return llama().to(torch.bfloat16)


def wrapped(scheme, base=llama, **options):
    torch.manual_seed(0)
    options = {"peft_config": LoraConfig(**QUERY)} | options
    return hybridopt.wrap(base(), quantization=scheme, **options)


def merged(model, cycles=1):
    for _ in range(cycles):
        train(model, 1, lr=0.1)
        model.merge_adapter()
        model.unmerge_adapter()
    return model


def query(model):
    return model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.base_layer")


def write_(model):
    query(model).weight.data.view(-1)[:40] = 1


def kept(folder):
    path = folder / DELTA
    return {name for name in load_file(path) if ".kept." in name} if path.exists() else set()


@pytest.mark.parametrize("base", [llama, bf16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_merge_cycles_come_back(scheme, base, tmp_path):
    model = merged(wrapped(scheme, base), cycles=2)
    fresh = wrapped(scheme, base)
    assert not torch.equal(query(model).weight, query(fresh).weight), "the cycles have changed no code"
    model.hybrid.save_pretrained(tmp_path)
    layers = {name.partition(".weight.")[0].rpartition(".layers.0.")[2] for name in kept(tmp_path)}
    assert layers == {"self_attn.q_proj.base_layer", "self_attn.v_proj.base_layer"}
    again = hybridopt.from_pretrained(base(), tmp_path)
    assert torch.equal(logits(again), logits(model)) and not different(bits(again), bits(model))
    again.hybrid.save_pretrained(tmp_path / "again")
    assert kept(tmp_path / "again") == kept(tmp_path)
    twice = hybridopt.from_pretrained(base(), tmp_path / "again")
    assert torch.equal(logits(twice), logits(model))
    optimizer = train(again, 1)
    assert optimizer.param_groups


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_nobody_has_changed_is_not_saved(scheme, tmp_path):
    model = wrapped(scheme)
    train(model)
    logits(model)
    model.hybrid.save_pretrained(tmp_path)
    assert kept(tmp_path) == set()
    copy.deepcopy(model).hybrid.save_pretrained(tmp_path)
    assert kept(tmp_path) == set()


CHANGES = {
    "by hand": write_,
    "by load_state_dict": lambda model: model.load_state_dict(bits(merged(wrapped(model.hybrid.quantization)))),
    "scales": lambda model: scale_(model),
}


def scale_(model):
    state = query(model).weight.quant_state if hasattr(query(model), "quant_state") else query(model).state
    scales = query(model).weight.SCB if state is query(model).__dict__.get("state") else state.absmax
    (state.SCB if scales is None else scales).view(torch.uint8)[:4] ^= 1


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_change_of_codes_and_scales_is_saved(scheme, change, tmp_path):
    model = wrapped(scheme)
    train(model, 1)
    CHANGES[change](model)
    model.hybrid.save_pretrained(tmp_path)
    assert kept(tmp_path)
    again = hybridopt.from_pretrained(llama(), tmp_path)
    assert torch.equal(logits(again), logits(model)) and not different(bits(again), bits(model))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_changed_codes_beside_trained_scales_come_back(scheme, tmp_path):
    model = wrapped(scheme, policy="qzo", peft_config=None)
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight.data.view(-1)[:40] = 1
    for _, x in sorted(vars(layer.weight.quant_state).items()) if scheme != "int8" else [("SCB", layer.state.SCB)]:
        if isinstance(x, torch.nn.Parameter):
            x.data.mul_(1.5)
    model.hybrid.save_pretrained(tmp_path)
    assert kept(tmp_path) and not any("absmax" in name or "SCB" in name for name in kept(tmp_path))
    for options in ({}, {"policy": "adamw"}):
        assert torch.equal(logits(hybridopt.from_pretrained(llama(), tmp_path, **options)), logits(model))


def test_transposed_layers_come_back(tmp_path):
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = hybridopt.wrap(tiny_gpt2(layers=1), peft_config=config, quantization="nf4")
    model.transformer.h[0].mlp.c_fc.weight.data.view(-1)[:40] = 1
    model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_gpt2(layers=1), tmp_path)), logits(model))


def test_a_base_that_was_given_quantized_keeps_its_changes(tmp_path):
    def given():
        return hybridopt.wrap(llama(), quantization="nf4").hybrid.unwrap()

    model = hybridopt.wrap(given(), peft_config=LoraConfig(**QUERY))
    write_(model)
    model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(given(), tmp_path)), logits(model))


@pytest.mark.parametrize("options", [{}, {"policy": "qzo"}])
def test_changes_are_not_forgotten_when_the_model_is_wrapped_again(options, tmp_path):
    model = wrapped("nf4", peft_config=None).hybrid.unwrap()
    hybridopt.wrap(model).hybrid.unwrap()
    model.model.layers[0].self_attn.q_proj.weight.data.view(-1)[:40] = 1
    hybridopt.wrap(model, **options)
    model.hybrid.save_pretrained(tmp_path)
    assert kept(tmp_path)
    base = wrapped("nf4", peft_config=None).hybrid.unwrap()
    assert torch.equal(logits(hybridopt.from_pretrained(base, tmp_path)), logits(model))


def test_quantized_otherwise_after_wrap_is_refused_at_save(tmp_path):
    import bitsandbytes as bnb

    model = wrapped("nf4")
    layer = query(model)
    layer.weight = bnb.nn.Params4bit(torch.randn(64, 64), False, compress_statistics=False, quant_type="nf4").to("cpu")
    with pytest.raises(HybridOptError, match=r"q_proj.weight was quantized anew in another form.*unwrap\(\)"):
        model.hybrid.save_pretrained(tmp_path)
    model = wrapped("nf4")
    model.base_model.model.model.layers[0].self_attn.q_proj.base_layer = torch.nn.Linear(64, 64, bias=False)
    with pytest.raises(HybridOptError, match=r"q_proj was quantized when the model was wrapped, and is not any more"):
        model.hybrid.save_pretrained(tmp_path)
    plain = hybridopt.wrap(llama())
    plain.model.layers[0].mlp = hybridopt.wrap(llama(), quantization="nf4").model.layers[0].mlp
    with pytest.raises(HybridOptError, match="was quantized since the model was wrapped"):
        plain.hybrid.save_pretrained(tmp_path)
    assert not any(tmp_path.rglob("hybridopt_config.json"))


@pytest.fixture
def folder(tmp_path):
    model = wrapped("nf4")
    write_(model)
    model.hybrid.save_pretrained(tmp_path)
    return tmp_path


def damage(folder, change):
    tensors = load_file(folder / DELTA)
    change(tensors, next(name for name in tensors if name.endswith(".kept.codes")))
    save_file({name: x.clone() for name, x in tensors.items()}, folder / DELTA)
    (folder / manifest.MANIFEST).unlink()
    manifest.seal(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t, n: t.update({n: t[n][:-1]}), "kept.codes' has shape"),
        (lambda t, n: t.update({n: t[n].float()}), "kept.codes' has shape.*float32"),
        (lambda t, n: t.pop(n), "lacks .*kept.codes"),
        (lambda t, n: t.update({n.replace("codes", "absmax"): torch.ones(1)}), "kept.absmax' has shape"),
        (
            lambda t, n: t.update({n.replace("codes", "more"): torch.ones(1)}),
            "kept.more', which the base model has not",
        ),
        (lambda t, n: t.update({n.replace("codes", "values"): torch.ones(0, dtype=torch.int8)}), "kept.values' has"),
        (lambda t, n: t.update({n.replace("q_proj", "r_proj"): t[n]}), "r_proj.*which the base model has not"),
        (lambda t, n: t.update({"lm_head.weight.kept.codes": t[n]}), "lacks 'lm_head.weight.kept|lm_head.weight.kept"),
    ],
)
def test_damaged_parts_are_refused(folder, change, text):
    damage(folder, change)
    refused(llama(), folder, text)


def test_models_without_a_float_but_adapters_come_back(tmp_path):
    def linear():
        torch.manual_seed(0)
        return torch.nn.Sequential(*(torch.nn.Linear(64, 64, bias=False) for _ in range(2)))

    config = LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False)
    model = hybridopt.wrap(linear(), policy="lion", quantization="nf4", peft_config=config)
    model.hybrid.save_pretrained(tmp_path)
    back = hybridopt.from_pretrained(linear(), tmp_path)
    x = torch.ones(1, 64)
    assert back(x).equal(model(x))
