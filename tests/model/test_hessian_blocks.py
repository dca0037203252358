"""The Hessian blocks of every parameter, from the module tree and the config, against what each head really reads."""

from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

from hybridopt import HybridOptimizer, wrap
from hybridopt.model.hessian_blocks import Partition, guess_partition
from hybridopt.model.roles import params
from support import models
from support.adapted import lora

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
DECODER = SIZES | {"intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, **TOKENS}
FALCON = SIZES | {"alibi": True} | TOKENS
NEW_FALCON = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}
# class, config, the attention's output projection
ATTENTIONS = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**DECODER, num_key_value_heads=2), "o_proj"),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**DECODER, num_key_value_heads=2, head_dim=16), "o_proj"),
    "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**DECODER, num_key_value_heads=1, head_dim=16), "o_proj"),
    "mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig(**DECODER, num_key_value_heads=2), "self_attn.o_proj"),
    "phi3": (hf.Phi3ForCausalLM, hf.Phi3Config(**DECODER, num_key_value_heads=2), "o_proj"),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT), "attn.c_proj"),
    "bigcode": (hf.GPTBigCodeForCausalLM, hf.GPTBigCodeConfig(**GPT), "attn.c_proj"),
    "bigcode of heads": (hf.GPTBigCodeForCausalLM, hf.GPTBigCodeConfig(**GPT, multi_query=False), "attn.c_proj"),
    "gpt_neox": (hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**DECODER), "attention.dense"),
    "bloom": (hf.BloomForCausalLM, hf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4), ".dense"),
    "falcon": (hf.FalconForCausalLM, hf.FalconConfig(**FALCON, multi_query=True), ".dense"),
    "falcon of heads": (hf.FalconForCausalLM, hf.FalconConfig(**FALCON, multi_query=False), ".dense"),
    "falcon of groups": (hf.FalconForCausalLM, hf.FalconConfig(**NEW_FALCON), ".dense"),
    "mpt": (hf.MptForCausalLM, hf.MptConfig(vocab_size=64, d_model=32, n_layers=1, n_heads=4), "attn.out_proj"),
    "bert": (hf.BertModel, hf.BertConfig(**DECODER), "attention.output.dense"),
    "deberta": (hf.DebertaV2Model, hf.DebertaV2Config(**DECODER), "attention.output.dense"),
    "first deberta": (hf.DebertaModel, hf.DebertaConfig(**DECODER), "attention.output.dense"),
    "codegen": (hf.CodeGenForCausalLM, hf.CodeGenConfig(**GPT, rotary_dim=4, n_ctx=32), "attn.out_proj"),
}
UNKNOWN = ("codegen", "first deberta")  # layouts that the partition leaves to neurons


def found(model):
    return {p.name: p.partition for p in params(model)}


def lines(partition):
    """(kind, number of the block among its kind) of every line."""
    out, seen = [], {}
    for _ in range(partition.groups):
        for kind, count, each in partition.parts:
            for _ in range(count):
                block = seen[kind] = seen.get(kind, -1) + 1
                out += [(kind, block)] * each
    return out


def only_head(model, output, head, size):
    """Gradients where nothing of the attention but one head reaches the loss."""
    module = next(m for n, m in model.named_modules() if n.endswith(output))
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.mT
    with torch.no_grad():
        weight.normal_()
        weight[: head * size] = 0
        weight[(head + 1) * size :] = 0
    tokens = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    out = model(tokens)
    (out[0] * torch.randn(out[0].shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_head_is_what_its_output_depends_on(name):
    """Whatever the layout: through one head's output flow gradients to its query block, its key block, its values."""
    cls, config, output = ATTENTIONS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(config).eval()
    parted = {n: p for n, p in found(model).items() if any(kind in "query key" for kind, _, _ in p.parts)}
    assert bool(parted) != (name in UNKNOWN)
    heads = sum(c * p.groups for p in parted.values() for kind, c, _ in p.parts if kind == "query")
    shared = heads // max(1, sum(c * p.groups for p in parted.values() for k, c, _ in p.parts if k == "key"))
    size = next((each for p in parted.values() for _, _, each in p.parts), 0)
    for head in (0, 1, 3) if parted else ():
        grads = only_head(model, output, head, size)
        for n, p in found(model).items():
            if not p.parts:
                continue
            moved = grads[n].abs().sum(0 if p.axis == "columns" else 1) > 0
            mine = {"query": {head}, "key": {head // shared}}
            mine["value"] = set(range(head // shared * size, (head // shared + 1) * size))
            wanted = [block in mine[kind] for kind, block in lines(p)]
            assert moved.tolist() == wanted, (n, head)


class Attention(nn.Module):
    """Somebody's own attention; what it does not know of its heads is None."""

    def __init__(self, heads=4, size=8, query=32, key=16):
        super().__init__()
        self.num_heads, self.head_dim = heads, size
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(32, query), nn.Linear(32, key), nn.Linear(32, key)


def heads_of(model):
    """Blocks and lines of query and key."""
    parts = found(model)
    return tuple(parts[f"{name}_proj.weight"].parts[0][1:] for name in "qk")


def test_sizes_that_fit_no_heads_are_taken_line_by_line():
    assert heads_of(Attention()) == ((4, 8), (2, 8))
    assert heads_of(Attention(size=None)) == ((4, 8), (2, 8)), "the size of a head follows from the query"
    assert heads_of(Attention(query=64)) == ((64, 1), (2, 8)), "Qwen3-Next's query carries a gate"
    assert heads_of(Attention(query=16)) == ((16, 1), (2, 8))
    assert heads_of(Attention(key=20)) == ((4, 8), (20, 1))
    assert heads_of(Attention(key=24)) == ((4, 8), (24, 1)), "four heads cannot share three"
    assert heads_of(Attention(heads=None)) == ((32, 1), (16, 1))
    lonely = Attention()
    del lonely.v_proj
    assert {p.parts for p in found(lonely).values()} == {()}, "no attention without values"


def test_an_attentions_own_heads_are_not_mixed_with_a_configs():
    model = nn.Module()
    model.attn = nn.Module()
    model.attn.qkv, model.attn.num_heads = nn.Linear(32, 96), 4
    model.config = SimpleNamespace(num_attention_heads=8, num_key_value_heads=2, head_dim=8)
    assert found(model)["attn.qkv.weight"].parts == (("query", 4, 8), ("key", 4, 8), ("value", 32, 1))
    del model.attn.num_heads
    assert found(model)["attn.qkv.weight"].parts == (("query", 8, 8), ("key", 2, 8), ("value", 16, 1))


def test_linear_attention_of_minimax_lies_head_by_head():
    with torch.device("meta"):
        config = hf.MiniMaxConfig(**DECODER, num_key_value_heads=2, layer_types=["linear_attention"])
        parts = found(hf.MiniMaxForCausalLM(config))["model.layers.0.self_attn.qkv_proj.weight"]
    assert parts == Partition("rows", (("query", 1, 8), ("key", 1, 8), ("value", 8, 1)), 4)


def test_torchs_own_attention():
    fused = found(nn.TransformerEncoderLayer(32, 4, 48))
    heads = (("query", 4, 8), ("key", 4, 8), ("value", 32, 1))
    assert fused["self_attn.in_proj_weight"] == Partition("rows", heads)
    assert fused["self_attn.out_proj.weight"] == fused["linear1.weight"] == Partition()
    apart = found(nn.MultiheadAttention(32, 4, kdim=16, vdim=8))
    assert apart["q_proj_weight"].parts == heads[:1] and apart["k_proj_weight"].parts == heads[1:2]
    assert apart["v_proj_weight"].parts == heads[2:]


def test_weights_that_are_stored_transposed():
    gpt2 = found(models.tiny_gpt2(add_cross_attention=True, layers=1))
    base = "transformer.h.0."
    assert gpt2[f"{base}attn.c_attn.weight"].axis == gpt2[f"{base}mlp.c_fc.weight"].axis == "columns"
    assert gpt2[f"{base}crossattention.c_attn.weight"].parts == (("key", 4, 16), ("value", 64, 1))
    assert gpt2[f"{base}crossattention.q_attn.weight"].parts == (("query", 4, 16),)
    assert gpt2["transformer.wte.weight"] == Partition()
    with torch.device("meta"):
        oss = hf.GptOssForCausalLM(hf.GptOssConfig(**DECODER, num_key_value_heads=2, num_local_experts=2))
    assert found(oss)["model.layers.0.mlp.experts.gate_up_proj"] == Partition("columns")
    assert found(models.tiny_moe())["model.layers.0.mlp.experts.gate_up_proj"] == Partition()
    assert found(nn.ConvTranspose2d(4, 6, 3))["weight"] == Partition("columns", (("neuron", 6, 9),))
    assert found(nn.Conv2d(4, 6, 3))["weight"] == found(nn.ConvTranspose2d(4, 6, 3, groups=2))["weight"] == Partition()


def test_vision_heads_are_not_those_of_the_text():
    vision = {"depth": 1, "embed_dim": 48, "hidden_size": 32, "num_heads": 6, "patch_size": 4}
    text = DECODER | {"num_key_value_heads": 2}
    with torch.device("meta"):
        model = hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(text_config=text, vision_config=vision))
    parts = found(model)
    assert parts["model.visual.blocks.0.attn.qkv.weight"].parts == (("query", 6, 8), ("key", 6, 8), ("value", 48, 1))
    assert parts["model.language_model.layers.0.self_attn.k_proj.weight"].parts == (("key", 2, 8),)


def test_adapters_leave_the_blocks_of_the_base_alone():
    plain = found(models.tiny_llama())
    model = get_peft_model(models.tiny_llama(), lora(target_modules=["q_proj"], modules_to_save=["k_proj"]))
    adapted = found(model)
    query = "model.layers.0.self_attn.q_proj"
    assert adapted[f"base_model.model.{query}.base_layer.weight"] == plain[f"{query}.weight"] != Partition()
    copied = "base_model.model.model.layers.0.self_attn.k_proj.modules_to_save.default.weight"
    assert adapted[copied] == plain["model.layers.0.self_attn.k_proj.weight"] != Partition()
    compiled = models.tiny_llama()
    compiled.model.layers[0].self_attn.q_proj.compile()
    assert found(compiled) == plain
    compiled.model.layers[0].self_attn.q_proj = torch.compile(compiled.model.layers[0].self_attn.q_proj)
    assert found(compiled) == plain
    optimizer = wrap(model, policy="adam_mini").hybrid.optimizer()
    states = {n: p for g in optimizer.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)}
    assert {n.rpartition(".lora_")[2] for n in states if "lora_" in n} == {"A.default.weight", "B.default.weight"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.q_proj.weight", "query"),
        ("a.wk.weight", "key"),
        ("a.self.value.weight", "value"),
        ("a.to_q.weight", "query"),
    ]
    + [("a.quantity.weight", None), ("q_weight", None), ("a.o_proj.weight", None), ("a.key_norm.weight", "key")],
)
def test_names_are_the_last_resort(name, kind):
    assert guess_partition(name, (8, 4)) == (Partition(parts=((kind, 8, 1),)) if kind else Partition())
    assert guess_partition(name, (8,)) == Partition()


def test_names_alone_give_no_heads():
    optimizer = HybridOptimizer(models.tiny_llama().named_parameters(), policy="adam_mini")
    assert all('"blocks": []' in g["treatment"] for g in optimizer.param_groups)
