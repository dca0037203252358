"""A small causal language model for instructions: pre-trained once on real text with AdamW, and kept."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_with_min_lr_schedule_with_warmup

from ..shared.places import CACHE
from .encoder import there

SPECIAL = ["<pad>", "<end>"]
END = SPECIAL.index("<end>")


@dataclass(frozen=True)
class Recipe:
    """Sizes of the model and its pre-training; texts lie below the folder of all data."""

    hidden: int = 192
    layers: int = 4
    inner: int = 512
    heads: int = 4
    vocabulary: int = 2048
    sequence: int = 256
    window: int = 128
    batch: int = 16
    steps: int = 500
    lr: float = 3e-3
    texts: tuple[str, ...] = (
        "wikitext2/test.txt",
        "gutenberg/moby_dick.txt",
        "gutenberg/pride_and_prejudice.txt",
        "gsm8k/train.jsonl",
        "boolq/val.jsonl",
    )


@lru_cache(maxsize=1)
def ready(folder: Path, recipe: Recipe, cache: Path = CACHE) -> Path:
    """Return the folder of the pre-trained model and its tokenizer; they are made first if they are not there.

    Args:
        folder: of all data.
        recipe: what is made.
        cache: where it is kept.
    """
    texts = [read(there(folder / name)) for name in recipe.texts]
    digest = sha256(repr(asdict(recipe)).encode() + "".join(texts).encode()).hexdigest()[:12]
    place = cache / "finetune" / f"llama-{digest}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(texts, recipe.vocabulary, show_progress=False, special_tokens=SPECIAL)
        model = pretrained(recipe, [id for text in texts for id in (*tokenizer.encode(text).ids, END)])
        publish(place, model, tokenizer)
    return place


def read(path: Path) -> str:
    """Return the text of a file; of JSON lines, every string value on lines of its own."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return text
    return "\n".join(value for line in text.splitlines() for value in json.loads(line).values() if type(value) is str)


def network(recipe: Recipe) -> nn.Module:
    """Return the model with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.sequence,
            pad_token_id=0,
            eos_token_id=END,
            use_cache=False,
        )
    )


def pretrained(recipe: Recipe, ids: list[int]) -> nn.Module:
    """Train the model on token ids with AdamW; cosine, clipped, embeddings and all.

    Args:
        recipe: of the model.
        ids: of all texts on end.
    """
    torch.manual_seed(0)
    model = network(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.0)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, recipe.steps // 10, recipe.steps, min_lr_rate=0.1
    )
    for batch in windows(torch.tensor(ids), recipe):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


def windows(ids: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Yield a batch [batch, window] of token ids for every step, from random places."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(recipe.steps):
        starts = torch.randint(len(ids) - recipe.window, (recipe.batch, 1), generator=generator)
        yield ids[starts + torch.arange(recipe.window)]


def publish(place: Path, model: nn.Module, tokenizer: ByteLevelBPETokenizer) -> None:
    """Put weights and tokenizer at a place, whole or not at all.

    Args:
        place: the folder to be made.
        model: whose weights.
        tokenizer: of the model.
    """
    with TemporaryDirectory(dir=place.parent) as draft:
        inside = Path(draft) / place.name
        inside.mkdir()
        save_file(model.state_dict(), inside / "model.safetensors")
        tokenizer.save(str(inside / "tokenizer.json"))
        if not place.exists():  # another process was faster otherwise
            os.rename(inside, place)


def load(place: Path, recipe: Recipe) -> nn.Module:
    """Return the model that lies at a place."""
    model = network(recipe)
    model.load_state_dict(load_file(place / "model.safetensors"))
    return model


def load_tokenizer(place: Path) -> Tokenizer:
    """Return the tokenizer that lies at a place."""
    return Tokenizer.from_file(str(place / "tokenizer.json"))
