import copy

import bitsandbytes as bnb
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.pytorch_utils import Conv1D

from hybridopt.core.registry import find
from support import quantization
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_vit
from support.quantized import OPTIONS, evaluate, load, quantized

SCHEMES = quantization.SCHEMES


@pytest.mark.parametrize(
    ("build", "skip", "count", "left"),
    [
        (tiny_llama, ["lm_head"], 14, ["lm_head"]),
        (tiny_llama, ["model.layers.1", "lm_head"], 7, ["model.layers.1.mlp.up_proj", "lm_head"]),
        (tiny_gpt2, [], 8, ["lm_head"]),  # tied to the embedding
        (tiny_bert, ["classifier"], 13, ["classifier"]),
        (tiny_vit, [], 13, []),
        (tiny_moe, ["lm_head"], 8, ["model.layers.0.mlp.experts"]),
        (tiny_lstm, [], 1, ["lstm"]),
    ],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_linear_layers_but_those_to_skip(build, skip, count, left, scheme):
    model = build()
    names = quantization.check(model, scheme, skip)
    stacks = [name for name, p in model.named_parameters() if name in names and p.ndim == 3]
    names = [name for name in names if name not in stacks]
    assert len(names) == count and len(stacks) == (4 if build is tiny_moe else 0)
    assert not set(left) & set(names)
    assert all(type(model.get_submodule(name)) in (nn.Linear, Conv1D) for name in names)
    quantization.quantize_(model, scheme, [*names, *stacks])
    layer = bnb.nn.Linear8bitLt if scheme == "int8" else bnb.nn.Linear4bit
    assert [name for name, module in model.named_modules() if isinstance(module, layer)] == names
    assert torch.isfinite(model(**batch(model)).loss)


def test_a_skipped_name_is_no_prefix_of_other_names():
    model = nn.ModuleDict({"head": nn.Linear(8, 8), "head_norm": nn.Linear(8, 8)})
    assert quantization.targets_of(model, "nf4", ["head"]) == ["head_norm"]


def test_tied_and_shared_layers_are_left_alone():
    shared, tied = nn.Linear(8, 8), nn.Linear(8, 8)
    tied.weight = nn.Parameter(torch.randn(8, 8))
    embedding = nn.Embedding(8, 8)
    embedding.weight = tied.weight
    model = nn.Sequential(shared, shared, tied, embedding, nn.Linear(8, 8))
    assert quantization.check(model, "nf4") == ["4"]


def test_modules_that_transformers_keeps_in_fp32_are_left_alone():
    model = nn.ModuleDict({"wo": nn.Linear(8, 8), "wi": nn.Linear(8, 8)})
    model._keep_in_fp32_modules = {"wo"}
    assert quantization.targets_of(model, "nf4") == ["wi"]


def test_layers_that_bitsandbytes_cannot_take_are_left_alone():
    special = nn.Linear(8, 8)
    special.weight = type("Sharded", (nn.Parameter,), {})(torch.randn(8, 8))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    small, double = nn.Linear(8, 7), nn.Linear(8, 8).double()
    model = nn.Sequential(special, normed, small, double, nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert quantization.check(model, "nf4") == ["5"]


def test_one_input_column_stays_dense_with_int8():
    model = nn.Sequential(nn.Linear(1, 64), nn.Linear(64, 8))
    assert quantization.check(model, "int8") == ["1"]
    assert quantization.check(model, "nf4") == ["0", "1"]
    x = torch.linspace(-3, 3, 24).reshape(24, 1)
    dense = model(x)
    torch.testing.assert_close(quantized(model, "int8").eval()(x), dense, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("width", [16, 32, 48, 80, 96, 160])
def test_widths_with_wrong_four_bit_scales_on_cpus_stay_dense(width):
    model = nn.Sequential(nn.Linear(width, 64), nn.Linear(64, 64))
    assert quantization.targets_of(model, "nf4") == ["1"]
    assert quantization.targets_of(model, "int8") == ["0", "1"]
    assert quantization.targets_of(model.to("meta"), "nf4") == ["0", "1"]


@pytest.mark.parametrize("width", [18, 24, 50, 64, 72, 100, 128, 192])
@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_the_scales_of_all_other_widths_are_right(width, scheme):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 96, bias=False))
    nn.init.normal_(model[0].weight)
    model[0].weight.data *= 10.0 ** torch.arange(-2, 2).repeat(24)[:, None]  # so that a scale of another row shows
    state = quantized(model, scheme)[0].weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    codes = model[0].weight.data.view(-1).int()
    values = state.code[torch.stack([codes >> 4, codes & 15], 1).view(-1)]
    expected = (values * absmax.repeat_interleave(64)[: values.numel()])[: 96 * width].view(96, width)
    torch.testing.assert_close(model.train()(torch.eye(width)), expected.t())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_and_constants_are_the_bits_that_transformers_loads(scheme, tmp_path):
    theirs = load(tmp_path, **OPTIONS[scheme])
    ours = quantized(tiny_llama(), scheme, ["lm_head"])
    assert quantization.scheme_of(theirs) == quantization.scheme_of(ours) == scheme
    assert quantization.fingerprint(ours) == quantization.fingerprint(theirs)
    assert quantization.weight_bytes(ours) == quantization.weight_bytes(theirs)
    quantization.guard_(theirs)
    assert torch.equal(evaluate(ours), evaluate(theirs))


@pytest.mark.parametrize(("scheme", "bound"), [("nf4", 0.12), ("fp4", 0.2), ("int8", 0.02)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_computes_nearly_what_it_did(scheme, bound, dtype, transposed):
    torch.manual_seed(0)
    layer = Conv1D(48, 128) if transposed else nn.Linear(128, 48)
    nn.init.normal_(layer.weight)
    model = nn.Sequential(layer).to(dtype)
    x = torch.randn(5, 3, 128, dtype=dtype)
    dense = model(x)
    for mode in (True, False):
        result = quantized(copy.deepcopy(model), scheme).train(mode)(x)
        assert result.dtype == dtype and result.shape == dense.shape
        assert (result - dense).float().norm() < bound * dense.float().norm()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bias_mode_and_random_state_are_kept_and_weights_are_frozen(scheme):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)).eval()
    model[2].train()
    bias, before = model[0].bias, torch.get_rng_state()
    quantized(model, scheme)
    assert torch.equal(torch.get_rng_state(), before)
    assert model[0].bias is bias and bias.requires_grad
    assert model[1].bias is None
    assert [layer.training for layer in model] == [False, False, True]
    assert not any(layer.weight.requires_grad for layer in model)
    assert quantization.fingerprint(model) == quantization.fingerprint(copy.deepcopy(model))


def test_outliers_of_the_input_are_not_rounded_with_int8():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    x = torch.randn(16, 64)
    x[:, 3] = 500
    dense = model(x)
    result = quantized(model, "int8").eval()(x)
    assert (result - dense).norm() < 0.01 * (dense - dense.mean(0)).norm() + 0.01 * dense.norm()
    assert ((result - dense) - (result - dense).mean(0)).norm() < 0.05 * (dense - dense.mean(0)).norm()


def test_compute_dtype_is_that_of_the_weight_and_only_nf4_nests_its_scales():
    for dtype in (torch.float32, torch.bfloat16):
        for scheme in ("nf4", "fp4"):
            layer = quantized(nn.Sequential(nn.Linear(64, 64, dtype=dtype)), scheme)[0]
            assert layer.compute_dtype == dtype
            assert layer.weight.quant_state.nested == (scheme == "nf4")
            assert layer.weight.quant_type == scheme


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_dense_weight_is_freed_before_the_next_layer(scheme, monkeypatch):
    model = tiny_llama()
    names = quantization.check(model, scheme, ["lm_head"])
    dense = [StorageWeakRef(model.get_submodule(name).weight.untyped_storage()) for name in names]
    alive, own = [], find("schemes", scheme)
    convert = own.quantize

    def watched(self, layer):
        alive.append(sum(not ref.expired() for ref in dense))
        return convert(self, layer)

    monkeypatch.setattr(own, "quantize", watched)
    quantization.quantize_(model, scheme, names)
    assert alive == list(range(len(names), 0, -1))
    assert all(ref.expired() for ref in dense)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_names_no_change(scheme):
    model = tiny_llama()
    quantization.quantize_(model, scheme, [])
    assert not hasattr(model, "is_loaded_in_4bit") and not hasattr(model, "is_loaded_in_8bit")
    assert quantization.scheme_of(model) is None
