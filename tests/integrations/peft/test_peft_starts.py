"""Starts that take a part out of the base, put on before `wrap` sees it."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import hybridopt
from hybridopt.core.registry import make
from support.adapted import based
from support.models import tiny_llama
from support.saved import logits, train

adapters = make("adapters", "peft")
QUERY = ["q_proj", "v_proj"]
ALTERING = ("pissa", "pissa_niter_2", "olora")
KEEPING = (True, False, "gaussian", "orthogonal", "mica", "eva")


def lora(**options):
    return LoraConfig(**{"r": 4, "target_modules": QUERY, **options})


def comes_back(model, folder, base=tiny_llama):
    expected = logits(model)
    for place in ("first", "second"):
        model.hybrid.save_pretrained(folder / place)
        model = hybridopt.from_pretrained(base(), folder / place)
        assert torch.equal(logits(model), expected), place


@pytest.mark.parametrize("init", ALTERING + KEEPING)
def test_what_changes_the_base_is_found_out(init):
    model = get_peft_model(tiny_llama(), lora(init_lora_weights=init))
    before = torch.get_rng_state()
    found = adapters.altered(model)
    assert len(found) == (4 if init in ALTERING else 0)
    assert all(name in dict(model.named_parameters()) and name.endswith("base_layer.weight") for name in found)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_without_adapters_of_their_own_are_not_altered():
    assert adapters.altered(tiny_llama()) == []
    model = get_peft_model(tiny_llama(), lora())
    model.add_adapter("second", lora(target_modules=["k_proj"], init_lora_weights="olora"))
    assert len(adapters.altered(model)) == 2


@pytest.mark.parametrize("init", ALTERING + ("orthogonal", "eva"))
def test_adapters_put_on_by_hand_come_back(init, tmp_path):
    model = hybridopt.wrap(get_peft_model(tiny_llama(), lora(init_lora_weights=init, target_modules="all-linear")))
    train(model, 1)
    comes_back(model, tmp_path)
    if init in ("pissa", "olora"):
        assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path / "first")), logits(model))


def test_a_second_adapter_may_begin_so(tmp_path):
    model = hybridopt.wrap(tiny_llama(), peft_config=lora())
    model.add_adapter("second", lora(init_lora_weights="pissa"))
    model.set_adapter("second")
    train(model, 1)
    comes_back(model, tmp_path)


def test_corda_which_cannot_be_begun_again_comes_back(tmp_path):
    model, config = tiny_llama(), lora(init_lora_weights="corda", corda_config={"corda_method": "kpm"})
    for name, layer in model.named_modules():
        if name.endswith(tuple(QUERY)):
            u, s, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
            layer.eigens = SimpleNamespace(U_WC=u[:, :4], S_WC=s[:4], V_WC=vh[:4].T)  # as PEFT's preprocessing does
    model = hybridopt.wrap(get_peft_model(model, config))
    train(model, 1)
    comes_back(model, tmp_path)
    for place in ("first", "second"):
        assert json.loads((tmp_path / place / "adapter_config.json").read_text())["init_lora_weights"] == "corda"


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_a_quantized_base_that_was_changed_comes_back(scheme, tmp_path):
    def base():
        return based(tiny_llama(), scheme)

    model = hybridopt.wrap(get_peft_model(base(), lora(init_lora_weights="olora")))
    train(model, 1)
    comes_back(model, tmp_path, base)
