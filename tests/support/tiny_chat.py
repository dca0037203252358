"""A tiny model with random weights, a tokenizer of bytes and a chat template, as a folder; and examples to learn."""

import json
from pathlib import Path

import torch

from benchmarks.shared.byte_chat import tokenizer

COLOURS = ("red", "blue", "green", "white")


def save_tiny_chat(folder, seed=0, layers=2, dtype=torch.float32, classes=None):
    """Write model, tokenizer and template into a folder, and return it.

    Args:
        folder: is made where it is not there.
        seed: of the weights.
        layers: of the model.
        dtype: of the weights.
        classes: number of classes of a classifier of sequences; None: a causal language model.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words) + 3,  # a multiple of 8
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
        **({} if classes is None else {"num_labels": classes}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (LlamaForCausalLM if classes is None else LlamaForSequenceClassification)(config).to(dtype)
    folder = Path(folder)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def chat(number):
    """Return one of many chats of a question and its answer."""
    name, colour = f"thing {number % 7}", COLOURS[number % 4]
    return {
        "messages": [
            {"role": "user", "content": f"colour of {name}?"},
            {"role": "assistant", "content": f"{colour}"},
        ]
    }


def rows(format, count=16):
    """Return `count` examples of one of the formats, by its name."""
    made = {
        "messages": chat,
        "prompt_completion": lambda i: {"prompt": f"colour of thing {i % 7}? ", "completion": COLOURS[i % 4]},
        "text": lambda i: {"text": f"thing {i % 7} is {COLOURS[i % 4]}, and so it stays."},
        "preference": lambda i: {"prompt": f"thing {i % 7}? ", "chosen": COLOURS[i % 4], "rejected": "no idea at all"},
        "prompt": lambda i: {"prompt": f"colour of thing {i % 7}? "},
        "labels": lambda i: {"text": f"it is {COLOURS[i % 2]}", "label": COLOURS[i % 2]},
    }[format]
    return [made(i) for i in range(count)]


def write_rows(path, format="messages", count=16):
    """Write examples as JSON lines, and return the path."""
    path = Path(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(format, count)))
    return path
