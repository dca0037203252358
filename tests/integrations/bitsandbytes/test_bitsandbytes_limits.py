import subprocess
import sys

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from hybridopt.core.errors import HybridOptError
from support import quantization
from support.models import tiny_llama
from support.paths import ROOT
from support.quantized import quantized, same, values, with_lora

SCHEMES = quantization.SCHEMES


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(64, 64), (48, 128), (11, 6), (33, 1000), (512, 512)])
def test_bytes_are_those_of_the_tensors_and_known_beforehand(scheme, shape):
    model = quantized(nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)), scheme)
    weight = model[0].weight
    if scheme == "int8":
        parts = [weight.data, weight.SCB]
    else:
        state = weight.quant_state
        nested = [state.offset, state.state2.absmax, state.state2.code] if scheme == "nf4" else []
        parts = [weight.data, state.absmax, state.code, *nested]
    size = sum(part.numel() * part.element_size() for part in parts)
    assert quantization.weight_bytes(model) == quantization.weight_bytes(weight) == size
    assert quantization.nbytes(shape, scheme) == size
    assert quantization.logical_shape(weight) == shape
    model(torch.randn(2, shape[1]))
    assert quantization.weight_bytes(model) == quantization.weight_bytes(*model.parameters()) == size


def test_shared_memory_counts_once():
    model = quantized(nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)), "nf4")
    each = quantization.nbytes((64, 64), "nf4")
    assert quantization.weight_bytes(model) == quantization.weight_bytes(model, model[0]) == 2 * each
    weight = nn.Parameter(torch.zeros(4, 4))
    assert quantization.weight_bytes(weight, nn.Parameter(weight.data)) == 64
    assert quantization.weight_bytes(*weight.data.unbind()) == 64
    tied = tiny_llama(tie=True)
    assert quantization.weight_bytes(tied) == 4 * sum(p.numel() for p in tied.parameters())


def test_dense_and_foreign_parameters():
    dense, codes = nn.Parameter(torch.zeros(3, 5, dtype=torch.bfloat16)), nn.Parameter(torch.zeros(4).byte(), False)
    assert quantization.is_frozen(codes) and not quantization.is_frozen(dense)
    assert not quantization.is_frozen(bnb.nn.Int8Params(torch.zeros(2, 2), has_fp16_weights=True))
    assert quantization.is_frozen(quantized(nn.Sequential(nn.Linear(8, 8)), "nf4")[0].weight)
    stored = bnb.nn.Params4bit(torch.randn(8, 16), quant_type="nf4", quant_storage=torch.bfloat16).to("cpu")
    assert stored.is_floating_point() and quantization.is_frozen(stored)
    assert quantization.logical_shape(stored) == (8, 16)
    assert quantization.logical_shape(dense) == (3, 5) and quantization.weight_bytes(dense, codes) == 34


def test_counting_and_importing_need_no_bitsandbytes():
    code = (
        "import sys, torch; from support import quantization as q; m = torch.nn.Linear(4, 4);"
        "assert q.weight_bytes(m) == 80 and q.scheme_of(m) is None and q.targets_of(m, 'nf4') == [];"
        "assert not {'bitsandbytes', 'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT / "tests")


def hooked():
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].register_forward_hook(lambda *_: None)
    return model


def filled(value):
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].weight.data[2, 3] = value
    return model


@pytest.mark.parametrize(
    ("build", "scheme", "skip", "text"),
    [
        (tiny_llama, "nf5", [], "'nf5' is not known; did you mean 'nf4'. Known: fp4, int8, int8-trainable, nf4"),
        (tiny_llama, "nf4", ["lm_haed"], "lm_haed.*no modules of that name"),
        (tiny_llama, "nf4", ["model", "lm_head"], "no linear layer to quantize"),
        (lambda: nn.Linear(8, 8), "nf4", [], "no linear layer to quantize"),
        (lambda: quantized(tiny_llama(), "nf4"), "int8", [], r"already is quantized \(nf4\)"),
        (lambda: quantized(tiny_llama(), "int8"), "fp4", [], r"already is quantized \(int8\)"),
        (lambda: nn.Sequential(nn.Linear(8, 8, device="meta")), "nf4", [], "0.weight is on the meta device; load"),
        (lambda: with_lora(tiny_llama()), "nf4", [], "already has an adapter; quantization comes first"),
        (hooked, "nf4", [], "0 has hooks"),
        (lambda: filled(float("nan")), "nf4", [], "0.weight has values from nan"),
        (lambda: filled(float("inf")), "fp4", [], "0.weight has values from .* to inf"),
        (lambda: filled(7e4), "int8", [], "finite ones up to 65504"),
        (lambda: filled(-7e4), "int8", [], "values from -70000.0 to"),
    ],
)
def test_refusals_name_the_cause_and_change_nothing(build, scheme, skip, text):
    model = build()
    before = values(model) if not next(model.parameters()).is_meta else {}
    with pytest.raises(HybridOptError, match=text):
        quantization.check(model, scheme, skip)
    assert not before or str(before) == str(values(model))


def test_values_beyond_fp16_are_fine_in_four_bits():
    assert quantization.check(filled(7e4), "nf4") == ["0"]


def test_a_model_quantized_by_something_else_is_refused():
    model = tiny_llama()
    model.is_quantized, model.quantization_method = True, "gptq"
    with pytest.raises(HybridOptError, match=r"already is quantized \(gptq\)"):
        quantization.check(model, "nf4")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_quantized_with_the_same_scheme_stays_as_it_is(scheme):
    assert quantization.check(quantized(tiny_llama(), scheme, ["lm_head"]), scheme) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_checking_changes_nothing(scheme):
    model = tiny_llama()
    quantization.check(model, scheme, ["lm_head"])
    assert same(values(model), values(tiny_llama())) and model.training
