"""Count the collectives of a step on one of several ranks, and time it against torch's AdamW on the same shards."""

import copy
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

from ..shared.wrapped import strategy

__all__ = ["POLICIES", "RANKS", "on_rank"]

RANKS = 2
POLICIES = ("adamw", "frugal", "adafactor", "apollo", "galore", "muon")
COUNTED = ("all_reduce", "all_to_all_single")
WARM, PAIRS = 2, 5
CONFIG = LlamaConfig(
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=4,
    num_attention_heads=4,
    tie_word_embeddings=False,
)


def on_rank(rank: int, folder: str, policies: list[str]) -> None:
    """Measure policies on one of the ranks; the first writes what it finds to found.json.

    Args:
        rank: number of this process.
        folder: where ranks meet, and the file is written.
        policies: by name.
    """
    torch.set_num_threads(1)
    meet, patience = f"file://{folder}/meet", timedelta(minutes=5)
    distributed.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=meet, timeout=patience)
    found = [measured(policy) for policy in policies]
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def measured(policy: str) -> dict[str, Any]:
    """Return what a step of a policy sends from this rank, and its time over that of torch's AdamW.

    Returns:
        ours: collectives of the update; ours_bytes, that this rank hands in for them; ratio: median of the times of
        interleaved whole steps over those of torch's AdamW.
    """
    model = sharded()
    other = sharded()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = hybridopt.wrap(model, policy=policy)
        optimizer = strategy(model).optimizer(lr=1e-5)
    theirs = torch.optim.AdamW(other.parameters(), lr=1e-5)
    for _ in range(WARM):
        step(model, optimizer)
        step(other, theirs)
    passed(model)
    with counted() as update:
        optimizer.step()
    optimizer.zero_grad()
    ratios = [timed(model, optimizer) / timed(other, theirs) for _ in range(PAIRS)]
    return {
        "policy": policy,
        "ours": sum(n for n, _ in update.values()),
        "ours_bytes": sum(size for _, size in update.values()),
        "ratio": round(statistics.median(ratios), 3),
    }


def sharded() -> nn.Module:
    """Return a model of which every rank has its rows."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = LlamaForCausalLM(copy.deepcopy(CONFIG))
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def passed(model: nn.Module) -> None:
    """Run a forward and a backward pass of 2 x 64 tokens."""
    tokens = torch.arange(128).view(2, 64) % CONFIG.vocab_size
    model(input_ids=tokens, labels=tokens).loss.backward()


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Take a training step."""
    passed(model)
    optimizer.step()
    optimizer.zero_grad()


def timed(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of a training step that all ranks begin together."""
    distributed.barrier()
    start = time.perf_counter()
    step(model, optimizer)
    distributed.barrier()
    return time.perf_counter() - start


@contextmanager
def counted() -> Iterator[dict[str, tuple[int, int]]]:
    """Count, within, the collectives that Python asks torch for: by name how many, and bytes that are handed in."""
    found: dict[str, tuple[int, int]] = {}
    calls, sizes = Counter[str](), Counter[str]()
    own = {name: getattr(distributed, name) for name in COUNTED}

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            given = kwargs.get("input_tensor", kwargs.get("input", args[-1] if len(args) == 1 else None))
            x: Tensor = next(t for t in (given, *args[1:2], *args[:1]) if isinstance(t, Tensor))
            calls[name] += 1
            sizes[name] += x.nbytes
            return call(*args, **kwargs)

        return run

    for name, call in own.items():
        setattr(distributed, name, counting(name, call))
    try:
        yield found
    finally:
        for name, call in own.items():
            setattr(distributed, name, call)
        found.update({name: (calls[name], sizes[name]) for name in calls})
