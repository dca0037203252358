"""A small language model of bytes in bfloat16, trained by AdamW whose weights and moments are kept in several ways."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from .held import WAYS

TEXT = "tinyshakespeare/input.txt"


@dataclass(frozen=True)
class Run:
    """What a run is besides its way and seed. parameters: of the model whose gradients have the size that these get.

    Gradients are clipped to norm 1 and then, where `parameters` is given, made as small as they would be if that norm
    were shared by so many parameters.
    """

    hidden: int = 64
    layers: int = 2
    intermediate: int = 160
    heads: int = 4
    sequence: int = 64
    batch: int = 16
    steps: int = 150
    warmup: int = 15
    lr: float = 3e-3
    parameters: float | None = None


def network(run: Run, letters: int, seed: int) -> nn.Module:
    """Return a Llama with random bfloat16 weights.

    Args:
        run: its sizes.
        letters: of the text.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=letters,
        hidden_size=run.hidden,
        intermediate_size=run.intermediate,
        num_hidden_layers=run.layers,
        num_attention_heads=run.heads,
        max_position_embeddings=run.sequence,
        use_cache=False,
    )
    return LlamaForCausalLM(config).bfloat16()


def letters_of(folder: Path) -> tuple[Tensor, int]:
    """Return the text as numbers of letters, and how many letters there are."""
    text = (folder / TEXT).read_text()
    alphabet = {letter: index for index, letter in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[letter] for letter in text]), len(alphabet)


def windows(text: Tensor, run: Run, generator: torch.Generator) -> Tensor:
    """Return a batch [batch, sequence] from random places of a text."""
    starts = torch.randint(len(text) - run.sequence, (run.batch,), generator=generator)
    return torch.stack([text[start : start + run.sequence] for start in starts])


def train(way: str, seed: int, run: Run, folder: Path) -> dict:
    """Train once; return the loss on the last tenth of the text in nats a letter, and how many parameters there are.

    Args:
        way: of WAYS.
        seed: of weights and batches.
        run: the rest.
        folder: of the text.
    """
    text, letters = letters_of(folder)
    border = len(text) * 9 // 10
    model = network(run, letters, seed)
    held = [(p, WAYS[way](p.data)) for p in model.parameters()]
    count, generator = sum(p.numel() for p, _ in held), torch.Generator().manual_seed(seed)
    for step in range(run.steps):
        ids = windows(text[:border], run, generator)
        model(input_ids=ids, labels=ids).loss.backward()
        shrink(model, (count / run.parameters) ** 0.5 if run.parameters else 1.0)
        for p, one in held:
            assert p.grad is not None
            one.step(p.grad.clone(), rate(step, run))
        model.zero_grad()
    return {"loss": evaluate(model, text[border:], run), "parameters": count}


def shrink(model: nn.Module, factor: float) -> None:
    """Clip gradients to norm 1 and multiply them by a factor."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([g.float() for g in gradients])
    for g in gradients:
        g.mul_(factor / max(1.0, float(norm)))


def rate(step: int, run: Run) -> float:
    """Return the learning rate of a step: warmed up, then along a cosine to a tenth."""
    if step < run.warmup:
        return run.lr * (step + 1) / run.warmup
    done = (step - run.warmup) / (run.steps - run.warmup)
    return run.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def evaluate(model: nn.Module, text: Tensor, run: Run, batches: int = 20) -> float:
    """Return the mean loss over windows that depend on nothing but the text.

    Args:
        model: which predicts.
        text: that it has not seen.
        run: says how long a window is.
        batches: how many.
    """
    generator = torch.Generator().manual_seed(0)
    found = [windows(text, run, generator) for _ in range(batches)]
    return sum(model(input_ids=ids, labels=ids).loss.item() for ids in found) / batches
