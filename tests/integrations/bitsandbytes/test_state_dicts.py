"""State dicts of quantized models: whatever has happened to either side, the same codes and scales come back."""

import copy

import pytest
import torch
from transformers import Trainer

import hybridopt
from hybridopt import HybridOptError
from support.models import tiny_llama
from support.quantized import OPTIONS, load
from support.saved import bits, different, logits
from support.trainers import arguments, data

SCHEMES = ("nf4", "fp4", "int8")


def llama(factor=1.0):
    model = tiny_llama(layers=1)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(factor)
    return model


def wrapped(scheme, factor=1.0, **options):
    return hybridopt.wrap(llama(factor), quantization=scheme, **options)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_state_dict_brings_codes_and_scales(scheme, used, assign):
    source, target = wrapped(scheme, factor=3.0), wrapped(scheme)
    wanted = logits(source)
    if used:  # the first pass moves scales
        logits(target)
    for model in (target, copy.deepcopy(target)):
        state = bits(source)
        assert model.load_state_dict(state, assign=assign).unexpected_keys == []
        assert torch.equal(logits(model), wanted) and not different(bits(model), state)
        assert torch.equal(logits(copy.deepcopy(model)), wanted)
        assert model.hybrid.tags == source.hybrid.tags
        for x in state.values():  # it is not shared
            x.view(-1).view(torch.uint8)[:] = 0
        assert assign or torch.equal(logits(model), wanted)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_in_full_precision_are_quantized(scheme):
    model = wrapped(scheme)
    logits(model)
    model.load_state_dict(llama(3.0).state_dict())
    assert torch.equal(logits(model), logits(wrapped(scheme, factor=3.0)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scales_that_are_trained_stay_the_same_parameters(scheme):
    source, target = wrapped(scheme, factor=3.0, policy="qzo"), wrapped(scheme, policy="qzo")
    optimizer = target.hybrid.optimizer(lr=1e-3)
    target.load_state_dict(source.state_dict())
    assert torch.equal(logits(target), logits(source))
    nested = wrapped(scheme, factor=3.0)
    target.load_state_dict(nested.state_dict())
    assert torch.equal(logits(target), logits(nested))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    from hybridopt.model.quantization.scales import scales

    assert {id(x) for _, _, x in scales(target)} <= held


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s, n: s.pop(f"{n}.weight"), "without '.*up_proj.weight'"),
        (lambda s, n: [s.pop(k) for k in list(s) if k.startswith(n) and k != f"{n}.weight"], "without the scales"),
        (lambda s, n: s.update({f"{n}.weight": torch.ones(3, 64)}), r"up_proj.weight' of shape \(3, 64\)"),
        (lambda s, n: s.update({f"{n}.weight": s[f"{n}.weight"][:7]}), "up_proj.weight' with codes"),
    ],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_of_a_weight_is_refused(scheme, change, text):
    model, state = wrapped(scheme), bits(wrapped(scheme, factor=3.0))
    change(state, "model.layers.0.mlp.up_proj")
    with pytest.raises(HybridOptError, match=text):
        model.load_state_dict(state, strict=False)


def test_another_form_is_refused():
    model = wrapped("nf4")
    for state, text in (
        (wrapped("fp4").state_dict(), "with table fp4, the model with nf4"),
        (wrapped("int8").state_dict(), "without the scales|with codes"),
    ):
        with pytest.raises(HybridOptError, match=text):
            model.load_state_dict(state, strict=False)
    state = bits(wrapped("nf4"))
    name = next(n for n in state if "bitsandbytes__nf4" in n)
    state[name] = torch.zeros_like(state[name])
    with pytest.raises(HybridOptError, match="bitsandbytes cannot read"):
        model.load_state_dict(state)


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_models_that_transformers_has_quantized_read_them_too(scheme, tmp_path):
    first, second = (hybridopt.wrap(load(tmp_path, **OPTIONS[scheme])) for _ in range(2))
    layer = first.model.layers[0].mlp.up_proj
    layer.weight.data.view(-1)[:40] = 1
    wanted = logits(first)
    logits(second)
    second.load_state_dict(first.state_dict())
    assert torch.equal(logits(second), wanted)


@pytest.mark.parametrize("scheme", [*SCHEMES, "int8-trainable"])
def test_the_best_model_is_loaded_at_the_end(scheme, tmp_path):
    model = wrapped(scheme)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    options = {"max_steps": 2, "save_steps": 1, "eval_steps": 1, "load_best_model_at_end": True, "warmup_steps": 0}
    trainer = Trainer(
        model,
        arguments(tmp_path, **options),
        train_dataset=data(),
        eval_dataset=data(4),
        optimizers=(optimizer, None),
    )
    trainer.train()
    best = wrapped(scheme)
    trainer.model = best
    trainer._load_best_model()
    assert not different(bits(best), bits(model))
