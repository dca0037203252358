"""Saved adapters keep the rules of the loaders of vLLM and llama.cpp, or it is said which they break."""

import json

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file

import hybridopt
from hybridopt.saving.inspection import inspect_saved
from hybridopt.saving.served import VLLM_RANKS, vllm_rank_of
from hybridopt.training.output.loading import held_in, loading_lines
from support.models import tiny_gpt2, tiny_llama, tiny_resnet

QUERY = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
FACTORS = {"lora_A": 0, "lora_B": 1}


def saved(folder, config, base=tiny_llama, **options):
    hybridopt.wrap(base(), policy="frugal", peft_config=config, **options).hybrid.save_pretrained(folder)
    [adapter] = inspect_saved(folder)["adapters"]
    return adapter["loads in"]


@pytest.mark.parametrize(
    ("base", "targets", "options"),
    [
        (tiny_llama, "all-linear", {}),
        (tiny_llama, ["q_proj"], {"quantization": "nf4"}),
        (tiny_gpt2, ["c_attn", "c_fc"], {}),
    ],
)
def test_tensors_are_named_and_shaped_as_both_loaders_read_them(base, targets, options, tmp_path):
    """base_model.model.LAYER.lora_A.weight [r, in] and lora_B.weight [out, r], and nothing else."""
    rank = 4
    found = saved(tmp_path, LoraConfig(r=rank, target_modules=targets, task_type="CAUSAL_LM"), base, **options)
    layers = dict(base().named_modules())
    for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items():
        layer, factor, last = name.removeprefix("base_model.model.").rsplit(".", 2)
        assert layer in layers and last == "weight" and tensor.shape[FACTORS[factor]] == rank and tensor.dim() == 2
        assert tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA" and {"r", "lora_alpha", "target_modules"} <= settings.keys()
    assert found["PEFT"] == "yes" and "--max-lora-rank 8," in found["vLLM"]
    assert found["llama.cpp"].startswith("convert_lora_to_gguf.py")


BOTH, NEITHER = {"vLLM", "llama.cpp"}, set()
REFUSED = [
    ({"modules_to_save": ["lm_head"]}, BOTH, "modules_to_save"),
    ({"use_dora": True}, BOTH, "DoRA"),
    ({"bias": "lora_only"}, {"vLLM"}, "bias='lora_only'"),
    ({"rank_pattern": {"q_proj": 2}}, {"vLLM"}, "rank_pattern, which it does not read"),
    ({"alpha_pattern": {"q_proj": 2}}, BOTH, "alpha_pattern, which it does not read"),
    ({"use_rslora": True}, {"llama.cpp"}, "use_rslora, which it does not read"),
    ({"lora_bias": True}, BOTH, "the tensor base_model"),
    ({"trainable_token_indices": [1, 2]}, BOTH, "the tensor base_model"),
    ({"target_modules": ["embed_tokens", "q_proj"]}, NEITHER, ""),
    ({"r": 33}, NEITHER, ""),
]


@pytest.mark.parametrize(("changes", "refusing", "why"), REFUSED)
def test_rules_that_are_broken_are_named(changes, refusing, why, tmp_path):
    found = saved(tmp_path, LoraConfig(**QUERY | changes))
    assert {program for program, said in found.items() if said.startswith("no, for ")} == refusing
    assert all("hybridopt merge" in found[program] for program in refusing)
    assert not refusing or why in " ".join(found[program] for program in refusing)
    rank = vllm_rank_of(tmp_path)
    assert (rank is None) == ("vLLM" in refusing) and (rank is None or rank in VLLM_RANKS)
    assert rank is None or f"--max-lora-rank {rank}," in found["vLLM"]


def test_other_kinds_of_adapters_and_convolutions_are_named(tmp_path):
    names = {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    found = saved(tmp_path / "ia3", IA3Config(**names))
    assert found["vLLM"].startswith("no, for IA3 adapters") and found["llama.cpp"].startswith("no, for IA3")
    found = saved(tmp_path / "conv", LoraConfig(r=2, target_modules=["conv1"]), tiny_resnet)
    assert "layers that are no matrices" in found["vLLM"] and "layers that are no matrices" in found["llama.cpp"]


def test_changed_tensors_beside_adapters_are_read_by_hybridopt_alone(tmp_path):
    model = get_peft_model(tiny_llama(), LoraConfig(**QUERY))
    model.base_model.model.model.norm.weight.requires_grad_(True)
    wrapped = hybridopt.wrap(model, policy="adamw")
    with torch.no_grad():
        model.base_model.model.model.norm.weight.add_(1)
    wrapped.hybrid.save_pretrained(tmp_path)
    [adapter] = inspect_saved(tmp_path)["adapters"]
    assert all(said.startswith("no: it does not read the tensors") for said in adapter["loads in"].values())
    assert vllm_rank_of(tmp_path) is None and vllm_rank_of(tmp_path / "nowhere") is None


def test_cards_give_a_rank_that_vllm_takes(tmp_path):
    saved(tmp_path, LoraConfig(**QUERY | {"r": 24}))
    assert "--max-lora-rank 32" in "\n".join(loading_lines(held_in(tmp_path, tiny_llama()), "a/b"))
    saved(tmp_path, LoraConfig(**QUERY | {"rank_pattern": {"q_proj": 2}}))
    assert "vllm" not in "\n".join(loading_lines(held_in(tmp_path, tiny_llama()), "a/b"))
