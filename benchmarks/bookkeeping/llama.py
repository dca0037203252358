"""Calls of steps and probes of a tiny Llama."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

from ..shared.wrapped import strategy
from .calls import calls_of

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
LABELS = {
    "step": "FRUGAL, a step",
    "first probe": "MeZO, the first probe, which is watched",
    "later probe": "MeZO, a later probe",
    "step after a probe": "MeZO, the step after it",
}
GOALS = {"first probe": 8000, "later probe": 2500}


def model() -> LlamaForCausalLM:
    """Return a model of 21 tensors with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=2))


def counts() -> dict[str, int]:
    """Return the calls of everything in LABELS."""
    tokens = torch.randint(SIZES["vocab_size"], (2, 8), generator=torch.Generator().manual_seed(0))
    return {"step": frugal(tokens), **mezo(tokens)}


def frugal(tokens: torch.Tensor) -> int:
    """Return the calls of FRUGAL's third step on tokens [batch, sequence]."""
    llama = hybridopt.wrap(model(), policy="frugal", density=0.25, update_gap=20)
    optimizer = strategy(llama).optimizer(lr=1e-3, compile=False)
    for _ in range(3):
        optimizer.zero_grad()
        llama(input_ids=tokens, labels=tokens).loss.backward()
        count = calls_of(optimizer.step)
    return count


def mezo(tokens: torch.Tensor) -> dict[str, int]:
    """Return the calls of MeZO's first and second probe, and of the step after that, on tokens [batch, sequence]."""
    llama = hybridopt.wrap(model(), policy="mezo")
    optimizer = strategy(llama).optimizer(lr=1e-4)

    def probe():
        optimizer.probe(lambda: llama(input_ids=tokens, labels=tokens).loss)

    first = calls_of(probe)
    optimizer.step()
    return {"first probe": first, "later probe": calls_of(probe), "step after a probe": calls_of(optimizer.step)}
