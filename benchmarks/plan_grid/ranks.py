"""The most bytes that each of several processes takes in a training step, sharded by FSDP2 or replicated by DDP."""

import gc
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from hybridopt.core.numerics import rounding
from hybridopt.core.storages import storage_id
from hybridopt.model.fsdp.sharded_tensors import local
from hybridopt.planning import Request
from hybridopt.planning.subject.model import Subject
from hybridopt.planning.trace.tracker import storages

from ..shared.peak import Peak
from .measure import SOURCES, prepared, there

__all__ = ["RANK_CELLS", "measured_on_rank", "on_ranks", "wide"]

SIZE: dict[str, Any] = {"seq_len": 64, "batch": 2, "device": "cpu"}
POLICIES: dict[str, dict[str, Any]] = {  # updated where rows lie, in rounds, and by one rank for all
    "adamw": {"policy": "adamw"},
    "frugal": {"policy": "frugal", "options": {"density": 0.25}, "dtype": "fp32"},
    "adafactor": {"policy": "adafactor", "release": "fused"},
    "muon": {"policy": "muon"},
}
WIDTHS = {
    "256": {},
    "396": {"hidden_size": 396, "intermediate_size": 1001, "vocab_size": 3001, "num_attention_heads": 6},
}
PATIENCE = 120  # seconds


def wide(name: str) -> Subject:
    """Return a Llama of 6 layers by its width; of 396 rows of vocabulary and MLP do not come out even."""
    return Subject("llama", SOURCES["llama"].settings | WIDTHS[name])


RANK_CELLS = {
    f"{policy} width {width} {ranks} ranks {parallel}": (width, Request(**how, **SIZE, gpus=ranks, parallel=parallel))
    for policy, how in POLICIES.items()
    for width, ranks, parallel in (("256", 2, "fsdp"), ("396", 3, "fsdp"), ("396", 2, "ddp"))
    if not (parallel == "ddp" and how.get("release"))
}
RANK_CELLS["adafactor width 396 2 ranks fsdp"] = "396", Request(**POLICIES["adafactor"], **SIZE, gpus=2)


def measured_on_rank(source: Subject, request: Request, steps: int = 8) -> int:
    """Train for some steps with the other ranks; return the most bytes that this one takes in one.

    gloo's threads let go of a buffer some time after its collective has ended, so that now and then one more layer is
    counted: of the steps that are alike the lowest counts.

    Args:
        source: the model.
        request: how it is trained.
        steps: how many; the first makes the state, and in the second DDP makes its buckets anew.
    """
    from torch.distributed.fsdp import fully_shard

    rounding._tables.clear()
    model, _ = prepared(source, request)
    trained: Any = model
    ran: nn.Module = model
    if request.parallel == "fsdp":
        for layer in next(m for m in model.modules() if isinstance(m, nn.ModuleList)):
            fully_shard(layer)
        fully_shard(model)
    else:
        ran = DistributedDataParallel(model)
    optimizer = trained.hybrid.optimizer(lr=1e-6, release=request.release, compile=False)
    tokens = torch.randint(source.settings["vocab_size"], (request.batch, request.seq_len))
    buckets = 0 if ran is model else sum(p.nbytes for p in model.parameters() if p.requires_grad)
    found = []
    for _ in range(steps):
        gc.collect()
        here = [x for x in there(model, optimizer) if not x.is_meta]  # other ranks have the state of their matrices
        before = sum({storage_id(s): s.nbytes() for x in here for s in storages(local(x))}.values())
        with Peak("cpu") as peak:
            ran(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(before + buckets + peak.extra)
    return min(found[2:])


def on_ranks(ranks: int, cells: Mapping[str, tuple[str, Request]]) -> dict[str, list[int]]:
    """Return, by cell, the most bytes of every rank, each a process of its own.

    Args:
        ranks: how many processes.
        cells: the width of the model and what is asked of it, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (ranks, dict(cells), folder), nprocs=ranks)
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]
    return {name: [each[name] for each in found] for name in cells}


def _rank(rank: int, ranks: int, cells: dict[str, tuple[str, Request]], folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    meet, patience = f"file://{folder}/meet", timedelta(seconds=PATIENCE)
    distributed.init_process_group("gloo", meet, patience, rank=rank, world_size=ranks)
    found = {name: measured_on_rank(wide(width), request) for name, (width, request) in cells.items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
