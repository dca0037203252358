"""Models in every state that is worth saving, and what to compare afterwards."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import hybridopt
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_resnet

ALL_LINEAR = {"r": 4, "target_modules": "all-linear"}


@dataclass(frozen=True)
class Scene:
    """A base model, how it is wrapped, and what is done to it before training; `files` are those saved besides."""

    base: Any = tiny_llama
    lora: dict | None = None
    wrap: dict = field(default_factory=dict)
    prepare: Any = lambda model: None
    files: tuple[str, ...] = ()

    def wrapped(self) -> nn.Module:
        """The model, wrapped and prepared."""
        config = None if self.lora is None else LoraConfig(**self.lora)
        model = hybridopt.wrap(self.base(), peft_config=config, seed=2, **{"update_gap": 2} | self.wrap)
        self.prepare(model)
        return model


def bf16_llama() -> nn.Module:
    return tiny_llama().to(torch.bfloat16)


def tied_llama() -> nn.Module:
    return tiny_llama(tie=True)


def unfreeze_norms(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if "norm" in name:
            p.requires_grad_(True)


def add_two_adapters(model: nn.Module) -> None:
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.add_adapter("third", LoraConfig(r=3, target_modules=["down_proj"]))
    model.set_adapter("second")
    train(model, 2)
    model.set_adapter("third")


ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
DELTA = ("hybridopt_delta.safetensors",)
SCENES = {
    "lora": Scene(lora=ALL_LINEAR, files=ADAPTER),
    "full": Scene(files=DELTA),
    "galore": Scene(wrap={"policy": "galore"}, files=DELTA),
    "lora-norms": Scene(lora=ALL_LINEAR, prepare=unfreeze_norms, files=ADAPTER + DELTA),
    "nf4": Scene(lora=ALL_LINEAR, wrap={"quantization": "nf4"}, files=ADAPTER),
    "fp4": Scene(lora=ALL_LINEAR, wrap={"quantization": "fp4"}, files=ADAPTER),
    "int8": Scene(lora=ALL_LINEAR, wrap={"quantization": "int8"}, files=ADAPTER),
    "nf4-norms": Scene(lora=ALL_LINEAR, wrap={"quantization": "nf4"}, prepare=unfreeze_norms, files=ADAPTER + DELTA),
    "nf4-alone": Scene(wrap={"quantization": "nf4"}, files=DELTA),
    "nf4-bf16": Scene(bf16_llama, ALL_LINEAR, {"quantization": "nf4"}, files=ADAPTER),
    "dora": Scene(lora=ALL_LINEAR | {"use_dora": True}, files=ADAPTER),
    "dora-nf4": Scene(lora=ALL_LINEAR | {"use_dora": True}, wrap={"quantization": "nf4"}, files=ADAPTER),
    "rslora": Scene(lora=ALL_LINEAR | {"use_rslora": True, "lora_alpha": 3}, files=ADAPTER),
    "modules-to-save": Scene(lora=ALL_LINEAR | {"modules_to_save": ["lm_head"]}, files=ADAPTER),
    "modules-to-save-int8": Scene(
        lora=ALL_LINEAR | {"modules_to_save": ["lm_head", "embed_tokens"]},
        wrap={"quantization": "int8"},
        files=ADAPTER,
    ),
    "adapters": Scene(
        lora=ALL_LINEAR,
        prepare=add_two_adapters,
        files=ADAPTER + tuple(f"{a}/{f}" for a in ("second", "third") for f in ADAPTER),
    ),
    "batch-norm": Scene(tiny_resnet, files=DELTA),
    "batch-norm-lora": Scene(tiny_resnet, {"r": 2, "target_modules": ["conv1", "conv2"]}, files=ADAPTER + DELTA),
    "tied": Scene(tied_llama, files=DELTA),
    "tied-lora-norms": Scene(tied_llama, ALL_LINEAR, prepare=unfreeze_norms, files=ADAPTER + DELTA),
    "gpt2-nf4": Scene(
        tiny_gpt2,
        {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": False},
        {"quantization": "nf4"},
        files=ADAPTER,
    ),
    "bert": Scene(tiny_bert, {"r": 4, "target_modules": ["query"], "bias": "lora_only"}, files=ADAPTER),
    "bf16": Scene(bf16_llama, files=DELTA),
    "bf16-lora": Scene(bf16_llama, ALL_LINEAR, files=ADAPTER),
    "lstm": Scene(tiny_lstm, files=DELTA),
    "experts": Scene(tiny_moe, files=DELTA),
}


def train(model: nn.Module, steps: int = 3, lr: float = 1e-2):
    """Some steps of a new optimizer, in training mode."""
    model.train()
    optimizer = model.hybrid.optimizer(lr=lr)
    for step in range(steps):
        model(**batch(model, seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    """What the model says, in evaluation mode."""
    mode = model.training
    found = model.eval()(**batch(model, seed=9)).logits
    model.train(mode)
    return found


def bits(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all that state_dict holds, and of the inactive adapters too."""
    return {name: x.clone() for name, x in model.state_dict().items() if isinstance(x, Tensor)}


def equal(left: Any, right: Any) -> bool:
    """Are two nests of dicts, lists, numbers and tensors the same, to the last bit?"""
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(x, right[key]) for key, x in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def different(left: dict, right: dict) -> list[str]:
    """Names of what is not the same on both sides."""
    return [name for name in left.keys() | right.keys() if not equal(left.get(name), right.get(name, 0))]


def refused(base: nn.Module, folder, text: str, **options) -> str:
    """The error that loading raises, after a look that the base is untouched."""
    before, build = bits(base), anatomy(base)
    with pytest.raises(hybridopt.HybridOptError, match=text) as caught:
        hybridopt.from_pretrained(base, folder, **options)
    assert anatomy(base) == build and not different(bits(base), before)
    return str(caught.value)


def anatomy(model: nn.Module) -> list[tuple]:
    """Names, types and modes of all modules, and what trains."""
    modules = [(name, type(m), m.training) for name, m in model.named_modules()]
    return modules + [(n, id(p), p.requires_grad) for n, p in model.named_parameters()] + sorted(vars(model))
