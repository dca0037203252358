"""Weights of modules that compute with them by themselves: stacks of experts, and subclasses of Linear."""

import copy

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.contracts import PackedWeight
from hybridopt.core.numerics import rounding
from hybridopt.model.quantization.packing import unpack_
from hybridopt.model.quantization.scheme_names import scheme_names
from hybridopt.model.quantization.sizes import weight_bytes
from hybridopt.planning import Request, plan
from hybridopt.planning.bytes.static import weights
from hybridopt.planning.subject.model import skeleton
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.trace.fake_models import tensors_of
from hybridopt.planning.trace.tracker import Tracker
from support.models import tiny_moe
from support.quantization import SCHEMES, check, quantize_

SIZES = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
EIGHT = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
IDS = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(1))
LORA = {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])}
ON_EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}


def qwen():
    config = Qwen3MoeConfig(**DECODER, **EIGHT, head_dim=16, architectures=["Qwen3MoeForCausalLM"])
    return Qwen3MoeForCausalLM._from_config(config, dtype=torch.bfloat16)


def shared_experts():
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**DECODER, **EIGHT, shared_expert_intermediate_size=64)).bfloat16()


def transposed():
    return GptOssForCausalLM(GptOssConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2, head_dim=16))


def falcon():
    return FalconForCausalLM(FalconConfig(**SIZES)).bfloat16()


class Doubled(nn.Linear):
    """A subclass of Linear that computes by itself."""

    def forward(self, x):
        return 2 * (x @ self.weight.T) + self.bias


MODELS = {"qwen": qwen, "shared experts": shared_experts, "mixtral": tiny_moe, "transposed": transposed}
MODELS |= {"falcon": falcon, "subclass": lambda: nn.Sequential(Doubled(64, 64), nn.Linear(64, 8))}


def made(name="qwen"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]().eval()


def wrapped(scheme, name="qwen", **more):
    lora = {} if scheme == "int8-trainable" else LORA
    return hybridopt.wrap(made(name), "adamw", quantization=scheme, **{**lora, **more})


def packed(model):
    return {n: p for n, p in model.named_parameters() if isinstance(p, PackedWeight)}


def in_floats(model):
    """A copy whose packed weights are floats of the same values."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        for name in [n for n, p in module._parameters.items() if isinstance(p, PackedWeight)]:
            unpack_(module, name)
    return twin


def gradients(model):
    """Loss, gradient to the embedded tokens, and those of parameters."""
    model.train().zero_grad()
    x = model.get_input_embeddings()(IDS).detach().requires_grad_(True)
    loss = model(inputs_embeds=x, labels=IDS).loss
    loss.backward()
    return loss.detach(), x.grad, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_of_them_are_found_and_nothing_of_their_modules_changes(name, scheme):
    model = made(name)
    modules, names = [type(m) for m in model.modules()], [n for n, _ in model.named_parameters()]
    found = check(model, scheme, ["lm_head"] if hasattr(model, "lm_head") else ["1"])
    stacks = {n for n, p in model.named_parameters() if p.ndim == 3}
    own = {f"{n}.weight" for n, m in model.named_modules() if type(m).__name__ in ("FalconLinear", "Doubled")}
    assert stacks | own and stacks | own == {n for n in found if n in names}
    for layer in (m for m in model.modules() if type(m) is nn.Linear):
        layer.weight.requires_grad_(False)  # none of those is quantized below
    quantize_(model, scheme, stacks | own)
    assert [type(m) for m in model.modules()] == modules and [n for n, _ in model.named_parameters()] == names
    assert packed(model).keys() == stacks | own and not any(p.requires_grad for p in packed(model).values())


def test_a_linear_layer_of_a_multihead_attention_is_left_alone():
    model = nn.Sequential(nn.MultiheadAttention(64, 4), nn.Linear(64, 64))
    assert check(model, "nf4") == ["1"]
    with pytest.raises(HybridOptError, match=r"read by its nn.MultiheadAttention: 0.out_proj.weight\)"):
        check(nn.Sequential(nn.MultiheadAttention(64, 4)), "nf4")


def test_a_refusal_lists_what_speaks_against_each_weight():
    tied = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(4, 4), nn.Linear(64, 80).double())
    tied[0].weight = tied[1].weight
    with pytest.raises(HybridOptError) as error:
        check(tied, "nf4")
    for told in ("tied to another module: 0.weight and 1 more", "fewer than 64 values: 2.weight", "float64 is no"):
        assert told in str(error.value)


@pytest.mark.parametrize("name", ["qwen", "shared experts", "transposed", "falcon"])
@pytest.mark.parametrize("scheme", ["nf4", "int8", "int8-trainable"])
def test_values_and_gradients_are_those_of_the_dequantized_weights(name, scheme):
    more = {"peft_config": LoraConfig(r=2, target_modules=["query_key_value"])} if name == "falcon" else {}
    model = wrapped(scheme, name, **(more if scheme != "int8-trainable" else {}))
    assert packed(model)
    twin = in_floats(model)
    (loss, x, own), (wanted, y, theirs) = gradients(model), gradients(twin)
    assert torch.equal(loss, wanted) and torch.equal(x, y) and own.keys() == theirs.keys()
    assert all(torch.equal(own[n], theirs[n]) for n in own)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("scheme", ["nf4", "int8", "int8-trainable"])
def test_checkpointing_changes_no_gradient(scheme, reentrant):
    model = wrapped(scheme)
    before = gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    after = gradients(model)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert before[2].keys() == after[2].keys() and all(torch.equal(before[2][n], after[2][n]) for n in before[2])


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_no_dequantized_expert_outlives_its_operation(scheme):
    """A parametrization would keep every stack in floats from the forward pass to the backward pass."""
    model = wrapped(scheme)
    sizes = []
    for each in (model, in_floats(model)):
        x = each.get_input_embeddings()(IDS).detach().requires_grad_(True)
        tracker = Tracker(tensors_of(each))
        with tracker:
            out = each.train()(inputs_embeds=x, labels=IDS)
        sizes.append(tracker.now)
        out.loss.backward()
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("on_experts", [False, True])
@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_adapters_on_and_beside_them_are_trained_saved_and_loaded(scheme, on_experts, tmp_path):
    config = LoraConfig(r=2, **ON_EXPERTS) if on_experts else LORA["peft_config"]
    model = wrapped(scheme, peft_config=config).train()
    codes = {n: p.parts()["codes"].clone() for n, p in packed(model).items()}
    assert any("experts" in n for n, tag in model.hybrid.tags.items() if tag == "state-full") == on_experts
    assert all(tag == "frozen" for n, tag in model.hybrid.tags.items() if n in codes)
    optimizer, losses = model.hybrid.optimizer(lr=1e-2), []
    for _ in range(3):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0] and all(torch.equal(p.parts()["codes"], codes[n]) for n, p in packed(model).items())
    model.hybrid.save_pretrained(tmp_path / "saved")
    again = hybridopt.from_pretrained(made(), tmp_path / "saved")
    assert again.hybrid.quantized == model.hybrid.quantized
    assert torch.equal(again.eval()(IDS).logits, model.eval()(IDS).logits)
    assert not (tmp_path / "saved" / "hybridopt_delta.safetensors").exists()


def test_trained_codes_of_experts_are_saved_and_loaded(tmp_path):
    model = wrapped("int8-trainable").train()
    optimizer = model.hybrid.optimizer(lr=1e-3)
    before = {n: p.codes.clone() for n, p in packed(model).items() if p.ndim == 3}
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert len(before) == 4 and all(not torch.equal(packed(model)[n].codes, codes) for n, codes in before.items())
    model.hybrid.save_pretrained(tmp_path / "saved")
    again = hybridopt.from_pretrained(made(), tmp_path / "saved")
    assert torch.equal(again.eval()(IDS).logits, model.eval()(IDS).logits)
    plain = again.hybrid.dequantize()
    assert not packed(plain) and torch.equal(plain(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("scheme", scheme_names())
def test_a_state_dict_holds_plain_tensors_and_is_taken_back(scheme):
    model, other = wrapped(scheme), wrapped(scheme)
    state = model.state_dict()
    assert all(type(x) is torch.Tensor or n.endswith(".weight") for n, x in state.items())
    assert any(n.endswith("experts.gate_up_proj.codes") for n in state)
    for p in (p for n, p in packed(other).items() if ".experts." in n):
        p.parts()["codes"].zero_()
    own = {n: x for n, x in state.items() if ".experts." in n}
    assert not other.load_state_dict(own, strict=False).unexpected_keys
    assert torch.equal(other.eval()(IDS).logits, model.eval()(IDS).logits)


@pytest.mark.parametrize("scheme", scheme_names())
def test_loading_quantizes_them_tensor_by_tensor(scheme, tmp_path):
    made().save_pretrained(tmp_path)
    loaded, model = hybridopt.load(tmp_path, quantization=scheme), wrapped(scheme)
    assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits) and len(packed(loaded)) >= 4
    own = [p for n, p in model.named_parameters() if "lora" not in n]
    assert weight_bytes(loaded) == weight_bytes(*own)


def test_a_base_with_other_weights_quantized_is_refused(tmp_path):
    made().save_pretrained(tmp_path / "base")
    part = {"quantization": "nf4", "skip": ["model.layers.0.mlp.experts"]}
    partly = hybridopt.wrap(hybridopt.load(tmp_path / "base", **part), "adamw", **LORA)
    partly.hybrid.save_pretrained(tmp_path / "part")
    wrapped("nf4").hybrid.save_pretrained(tmp_path / "whole")
    whole = hybridopt.load(tmp_path / "base", quantization="nf4")
    with pytest.raises(HybridOptError, match="is kept as torch.uint8 in this base, and was torch.bfloat16"):
        hybridopt.from_pretrained(whole, tmp_path / "part")
    with pytest.raises(HybridOptError, match="is kept as torch.bfloat16 in this base, and was codes"):
        hybridopt.from_pretrained(hybridopt.load(tmp_path / "base", **part), tmp_path / "whole")
    hybridopt.from_pretrained(hybridopt.load(tmp_path / "base", **part), tmp_path / "part")
    hybridopt.from_pretrained(whole, tmp_path / "whole")


@pytest.mark.parametrize("scheme", ["nf4", "int8-trainable"])
def test_the_plan_counts_the_bytes_that_are_there(scheme):
    model = wrapped(scheme)
    lora = {} if scheme == "int8-trainable" else {"lora": 2, **LORA}
    request = Request(policy="adamw", quantization=scheme, seq_len=12, batch=2, device="cpu", **lora)
    assert weights(skeleton(subject_of(made().config), request)) == weights(model)
    batch = {"input_ids": IDS, "labels": IDS}
    assert plan(made().config, request).parts == model.hybrid.memory(batch).parts


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_the_plan_counts_what_dequantizing_takes(scheme, monkeypatch):
    """Within what is not simulated of a CPU's kernels, and never without the stack that is floats for a moment."""
    monkeypatch.setattr(rounding, "_tables", {})  # those of this model alone
    model = wrapped(scheme)
    tracker = Tracker(tensors_of(model), "cpu")
    with tracker:
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
    planned = model.hybrid.memory({"input_ids": IDS, "labels": IDS})
    step = planned.activations_bytes + planned.temporaries_bytes + planned.gradients_bytes
    assert step == pytest.approx(tracker.peak + sum(x.nbytes for x in rounding.made_tables()), rel=0.05)
    stack = next(p for n, p in packed(model).items() if "gate_up" in n)
    assert step > stack.numel() * stack.element_size()


def test_a_mixture_of_30_billion_takes_17_gigabytes():
    big = {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48}
    big |= {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128}
    big |= {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    config = Qwen3MoeConfig(**big, architectures=["Qwen3MoeForCausalLM"])
    model = skeleton(subject_of(config), Request(policy="adamw", quantization="nf4", options={}))
    found = weights(model)
    assert 16.5e9 < found.weights + found.quantization < 17e9
