"""What is trained, and on what: the folder of a Llama with random weights, and a file of chats."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..shared.byte_chat import tokenizer

__all__ = ["SIZES", "Size", "made"]

COLOURS = ("red", "blue", "green", "white")


@dataclass(frozen=True)
class Size:
    """How large the model and its examples are.

    Args:
        hidden: width of the model; heads are 64 wide, and a quarter of them are those of keys.
        layers: of the model.
        turns: questions and answers of a chat, about 34 tokens each.
        batch: chats of a pass.
        steps: of training.
        dtype: of the weights.
    """

    hidden: int
    layers: int
    turns: int
    batch: int
    steps: int
    dtype: torch.dtype


SIZES = {
    "tiny": Size(256, 2, 2, 4, 8, torch.float32),
    "300m": Size(1536, 12, 15, 8, 20, torch.bfloat16),
}


def made(folder: Path, size: Size) -> tuple[Path, Path]:
    """Write a model with its tokenizer, and the examples of all steps; return both paths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words, heads = tokenizer(), size.hidden // 64
    config = LlamaConfig(
        vocab_size=len(words) + 3,  # a multiple of 8
        hidden_size=size.hidden,
        intermediate_size=8 * size.hidden // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        max_position_embeddings=1024,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    model = folder / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(size.dtype).save_pretrained(model)
    words.save_pretrained(model)
    chats = folder / "chats.jsonl"
    chats.write_text("".join(json.dumps(_chat(i, size.turns)) + "\n" for i in range(size.batch * size.steps)))
    return model, chats


def _chat(number: int, turns: int) -> dict:
    """Return a chat of questions whose answers can be learnt."""
    messages = []
    for i in range(number, number + turns):
        messages.append({"role": "user", "content": f"What colour is thing {i % 7}?"})
        messages.append({"role": "assistant", "content": COLOURS[i % 7 % 4]})
    return {"messages": messages}
