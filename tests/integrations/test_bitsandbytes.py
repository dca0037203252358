import copy
import logging
import subprocess
import sys

import bitsandbytes as bnb
import pytest
import torch
from models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_vit
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import validate_quantization_for_training

from hybridopt.errors import HybridOptError
from hybridopt.integrations import bitsandbytes as quantization

SCHEMES = quantization.SCHEMES
ATTENTION = "model.layers.0.self_attn"


def llama():
    return tiny_llama()


def quantized(model, scheme, skip=()):
    quantization.quantize_(model, scheme, quantization.check(model, scheme, skip))
    return model


def with_lora(model):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).train()


def gradients(model):
    model.zero_grad()
    model.train()(**batch(model)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def evaluate(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


def values(model):
    return {name: (tensor.dtype, tensor.clone()) for name, tensor in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(one[k][0] == two[k][0] and torch.equal(one[k][1], two[k][1]) for k in one)


def load(folder, **options):
    tiny = llama()
    tiny.save_pretrained(folder)
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
FP4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}
OPTIONS = {"nf4": NF4, "fp4": FP4, "int8": {"load_in_8bit": True}}


# What is covered


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
    assert len(names) == count
    assert not set(left) & set(names)
    assert all(type(model.get_submodule(name)) in (nn.Linear, Conv1D) for name in names)
    quantization.quantize_(model, scheme, names)
    layer = bnb.nn.Linear8bitLt if scheme == "int8" else bnb.nn.Linear4bit
    assert [name for name, module in model.named_modules() if isinstance(module, layer)] == names
    assert torch.isfinite(model(**batch(model)).loss)


def test_a_skipped_name_is_no_prefix_of_other_names():
    model = nn.ModuleDict({"head": nn.Linear(8, 8), "head_norm": nn.Linear(8, 8)})
    assert quantization.targets(model, "nf4", ["head"]) == ["head_norm"]


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
    assert quantization.targets(model, "nf4") == ["wi"]


def test_layers_that_bitsandbytes_cannot_take_are_left_alone():
    subclass, special = type("Special", (nn.Linear,), {})(8, 8), nn.Linear(8, 8)
    special.weight = type("Sharded", (nn.Parameter,), {})(torch.randn(8, 8))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    small, double = nn.Linear(8, 7), nn.Linear(8, 8).double()
    model = nn.Sequential(subclass, special, normed, small, double, nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert quantization.check(model, "nf4") == ["6"]


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
    assert quantization.targets(model, "nf4") == ["1"]
    assert quantization.targets(model, "int8") == ["0", "1"]
    assert quantization.targets(model.to("meta"), "nf4") == ["0", "1"]


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


# What comes out


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_and_constants_are_the_bits_that_transformers_loads(scheme, tmp_path):
    theirs = load(tmp_path, **OPTIONS[scheme])
    ours = quantized(llama(), scheme, ["lm_head"])
    assert quantization.scheme_of(theirs) == quantization.scheme_of(ours) == scheme
    assert quantization.fingerprint(ours) == quantization.fingerprint(theirs)
    assert quantization.weight_bytes(ours) == quantization.weight_bytes(theirs)
    quantization.guard(theirs)
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
    model = llama()
    names = quantization.check(model, scheme, ["lm_head"])
    dense = [StorageWeakRef(model.get_submodule(name).weight.untyped_storage()) for name in names]
    alive, convert = [], quantization._quantized

    def watched(module, scheme):
        alive.append(sum(not ref.expired() for ref in dense))
        return convert(module, scheme)

    monkeypatch.setattr(quantization, "_quantized", watched)
    quantization.quantize_(model, scheme, names)
    assert alive == list(range(len(names), 0, -1))
    assert all(ref.expired() for ref in dense)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_names_no_change(scheme):
    model = llama()
    quantization.quantize_(model, scheme, [])
    assert not hasattr(model, "is_loaded_in_4bit") and not hasattr(model, "is_loaded_in_8bit")
    assert quantization.scheme_of(model) is None


# Training on it


@pytest.mark.parametrize(("scheme", "layer"), [("nf4", Linear4bit), ("fp4", Linear4bit), ("int8", Linear8bitLt)])
def test_peft_puts_its_own_quantized_layers_on_it_and_trainer_takes_it(scheme, layer):
    model = quantized(llama(), scheme, ["lm_head"])
    validate_quantization_for_training(model)  # norms and embeddings may train without an adapter
    peft_model = with_lora(model)
    validate_quantization_for_training(peft_model)
    assert type(model.get_submodule(f"{ATTENTION}.q_proj")) is layer


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("loaded", [False, True])
def test_an_evaluation_in_between_does_not_change_gradients(scheme, loaded, tmp_path):
    model = load(tmp_path, **OPTIONS[scheme]) if loaded else quantized(llama(), scheme, ["lm_head"])
    if loaded:
        quantization.guard(model)
    model = with_lora(model)
    before, first = gradients(model), evaluate(model)
    after, again = gradients(model), evaluate(model)
    assert before.keys() == after.keys() and len(before) == 28
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(grad.any() for grad in before.values())
    assert torch.equal(first, again)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_leaves_the_base_bit_for_bit(scheme):
    model = quantized(llama(), scheme, ["lm_head"])
    before, size = quantization.fingerprint(model), quantization.weight_bytes(model)
    peft_model = with_lora(model)
    assert quantization.fingerprint(peft_model) == before
    optimizer = torch.optim.AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = peft_model(**batch(peft_model)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    evaluate(peft_model)
    assert losses[-1] < losses[0]
    assert quantization.fingerprint(peft_model) == before
    assert quantization.weight_bytes(peft_model.unload()) == size


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_fingerprint_sees_one_bit_of_codes_and_constants(scheme):
    model = quantized(nn.Sequential(nn.Linear(64, 64)), scheme)
    weight = model[0].weight
    parts = [weight.data, weight.SCB] if scheme == "int8" else [weight.data, weight.quant_state.absmax]
    seen = {quantization.fingerprint(model)}
    for part in parts:
        part.view(torch.uint8).view(-1)[5] ^= 1
        seen.add(quantization.fingerprint(model))
    assert len(seen) == 3


def test_guard_refuses_a_repacked_model_and_touches_nothing():
    model = quantized(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), "nf4")
    for layer in model:
        layer.support_avx512bf16_for_cpu = True
    weight = model[1].weight
    weight.data, weight.quant_state = bnb.functional._convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    with pytest.raises(HybridOptError, match=r"^1 \(1 of 2 4-bit layers\).*Load the model again"):
        quantization.guard(model)
    assert all(layer.support_avx512bf16_for_cpu for layer in model)
    model.state_dict()  # unpacks, but the scales stay rounded
    with pytest.raises(HybridOptError, match="repacked"):
        quantization.guard(model)


def test_guard_switches_repacking_off_everywhere_and_leaves_dense_models_alone():
    model = quantized(llama(), "nf4", ["lm_head"])
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    quantization.guard(with_lora(model))
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    dense = llama()
    quantization.guard(dense)
    assert same(values(dense), values(llama()))


@pytest.mark.parametrize("loaded", [False, True])
def test_int8_no_longer_logs_each_matrix_product(loaded, caplog):
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    logger.removeFilter(quantization._is_news)
    model = quantized(nn.Sequential(nn.Linear(8, 8)), "int8").eval()
    if loaded:  # as if another library had quantized it
        logger.removeFilter(quantization._is_news)
        quantization.guard(model)
    with caplog.at_level(logging.WARNING, "bitsandbytes"):
        model(torch.randn(2, 8))
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


# What it takes


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
    assert quantization.planned_bytes(shape, scheme) == size
    assert quantization.logical_numel(weight) == shape[0] * shape[1]
    model(torch.randn(2, shape[1]))
    assert quantization.weight_bytes(model) == quantization.weight_bytes(*model.parameters()) == size


def test_shared_memory_counts_once():
    model = quantized(nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)), "nf4")
    each = quantization.planned_bytes((64, 64), "nf4")
    assert quantization.weight_bytes(model) == quantization.weight_bytes(model, model[0]) == 2 * each
    weight = nn.Parameter(torch.zeros(4, 4))
    assert quantization.weight_bytes(weight, nn.Parameter(weight.data)) == 64
    assert quantization.weight_bytes(*weight.data.unbind()) == 64
    tied = tiny_llama(tie=True)
    assert quantization.weight_bytes(tied) == 4 * sum(p.numel() for p in tied.parameters())


def test_dense_and_foreign_parameters():
    dense, codes = nn.Parameter(torch.zeros(3, 5, dtype=torch.bfloat16)), nn.Parameter(torch.zeros(4).byte(), False)
    assert quantization.is_quantized_parameter(codes) and not quantization.is_quantized_parameter(dense)
    assert not quantization.is_quantized_parameter(bnb.nn.Int8Params(torch.zeros(2, 2), has_fp16_weights=True))
    assert quantization.is_quantized_parameter(quantized(nn.Sequential(nn.Linear(8, 8)), "nf4")[0].weight)
    stored = bnb.nn.Params4bit(torch.randn(8, 16), quant_type="nf4", quant_storage=torch.bfloat16).to("cpu")
    assert stored.is_floating_point() and quantization.is_quantized_parameter(stored)
    assert quantization.logical_numel(stored) == 128
    assert quantization.logical_numel(dense) == 15 and quantization.weight_bytes(dense, codes) == 34


def test_counting_and_importing_need_no_bitsandbytes():
    code = (
        "import sys, torch; from hybridopt.integrations import bitsandbytes as q; m = torch.nn.Linear(4, 4);"
        "assert q.weight_bytes(m) == 80 and q.scheme_of(m) is None and q.targets(m, 'nf4') == [];"
        "assert not {'bitsandbytes', 'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# What it refuses


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
        (llama, "nf5", [], "'nf5' is unknown; allowed are nf4, fp4, int8"),
        (llama, "nf4", ["lm_haed"], "lm_haed.*no modules of that name"),
        (llama, "nf4", ["model", "lm_head"], "no linear layer to quantize"),
        (lambda: nn.Linear(8, 8), "nf4", [], "no linear layer to quantize"),
        (lambda: quantized(llama(), "nf4"), "int8", [], r"already is quantized \(nf4\)"),
        (lambda: quantized(llama(), "int8"), "fp4", [], r"already is quantized \(int8\)"),
        (lambda: nn.Sequential(nn.Linear(8, 8, device="meta")), "nf4", [], "0.weight is on the meta device; load"),
        (lambda: with_lora(llama()), "nf4", [], "already has an adapter; quantization comes first"),
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
    model = llama()
    model.is_quantized, model.quantization_method = True, "gptq"
    with pytest.raises(HybridOptError, match=r"already is quantized \(gptq\)"):
        quantization.check(model, "nf4")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_quantized_with_the_same_scheme_stays_as_it_is(scheme):
    assert quantization.check(quantized(llama(), scheme, ["lm_head"]), scheme) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_checking_changes_nothing(scheme):
    model = llama()
    quantization.check(model, scheme, ["lm_head"])
    assert same(values(model), values(llama())) and model.training
