"""A small configuration of every tuner that the installed PEFT has, and what tests of them do."""

import dataclasses

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from support.models import batch, tiny_llama

TYPES = sorted(peft.PeftType, key=lambda kind: kind.name)
OWN = {  # what a configuration needs on a layer of 64 x 64, beside its targets
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1, "target_modules": None},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["norm"]},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2},
    "OFT": {"oft_block_size": 4, "r": 0},
    "POLY": {"task_type": "CAUSAL_LM"},
    "ROAD": {"group_size": 8},
    "SHADOW": {"target_modules": None},
    "TRAINABLE_TOKENS": {"token_indices": [4, 5], "target_modules": ["embed_tokens"]},
    "VBLORA": {"vector_length": 4, "num_vectors": 16, "topk": 2},
    "WAVEFT": {"n_frequency": 16},
    "XLORA": {"adapters": {}},
}
REFUSED = {  # by wrap, before anything is changed; all others train, save and load
    *("CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"),
    *("ADALORA", "ADAMSS", "ADAPTION_PROMPT", "XLORA"),
}
TASKS = {"POLY": {"task_ids": torch.zeros(4, dtype=torch.long)}}


def config_of(kind: peft.PeftType, **options) -> peft.PeftConfig:
    """A configuration of this type, on the queries and values of `base` unless it has other targets."""
    made = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    usual = {"target_modules": ["q_proj", "v_proj"], "num_virtual_tokens": 4, "r": 4}
    usual |= {"task_type": "CAUSAL_LM"} if issubclass(made, peft.PromptLearningConfig) else {}
    fields = {field.name for field in dataclasses.fields(made)}
    return made(**{k: v for k, v in (usual | OWN.get(kind.name, {})).items() if k in fields}, **options)


def base() -> torch.nn.Module:
    """A language model of one layer."""
    return tiny_llama(layers=1)


def steps(model, optimizer, kind, first: int = 0, count: int = 2) -> list[float]:
    """Losses of some steps, from the same random numbers each time."""
    model.train()
    losses = []
    for step in range(first, first + count):
        torch.manual_seed(step)
        loss = model(**batch(model, seed=step), **TASKS.get(kind.name, {})).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def answers(model, kind) -> torch.Tensor:
    """What the model says, in evaluation mode."""
    return model.eval()(**batch(model, seed=9), **TASKS.get(kind.name, {})).logits
