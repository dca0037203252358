"""Gradients of a small Llama on real text, and what the first bases hold of them."""

from statistics import median

import torch
from torch import Tensor

from hybridopt.core.contracts import Draw
from hybridopt.parts.splits.svd import Svd

from ..shared.llama import Llama
from ..shared.llama_model import config_of

__all__ = ["STEPS", "TEXT", "gradients_of", "held"]

STEPS = (0, 40)  # of training by AdamW, after which gradients are looked at
SIZE = Llama(hidden=384, inner=1024, layers=4, heads=6, kv_heads=2, vocab=256)
BATCH, SEQUENCE = 8, 128
TEXT = "tinyshakespeare/input.txt"


def gradients_of(text: bytes, steps: int) -> dict[str, Tensor]:
    """Return the gradients of all linear layers after some steps on bytes of a text, by name."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model, data = LlamaForCausalLM(config_of(SIZE)), torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps + 1):
        begins = torch.randint(len(data) - SEQUENCE, (BATCH,))
        ids = torch.stack([data[begin : begin + SEQUENCE] for begin in begins.tolist()])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        if step < steps:
            optimizer.step()
    return {name: p.grad for name, p in model.named_parameters() if "_proj" in name and p.grad is not None}


def held(grads: dict[str, Tensor], density: float) -> dict:
    """Return the least and the median share of the energy of exact directions that bases from noise hold.

    Args:
        grads: by the name of the weight.
        density: share of the directions.
    """
    shares = []
    for name, grad in grads.items():
        part = Svd(density, 1).at(Draw(0, name), tuple(grad.shape))
        (slot,) = part.slots(tuple(grad.shape)).values()
        basis = {"basis": torch.zeros(slot.shape)}
        part.sample(grad, basis, Draw(0, name, 0, fresh=True))
        low = part.down(grad, basis)
        assert low is not None
        most = torch.linalg.svdvals(grad)[: slot.shape[-1]].square().sum()
        shares.append(float(low.square().sum() / most))
    return {"matrices": len(shares), "least": min(shares), "median": median(shares)}
