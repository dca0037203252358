"""The kernels that inductor would make of updates on an H100: run as a program, as it bends torch to an absent GPU."""

import json
import sys
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridopt import HybridOptimizer
from hybridopt.execution.backends import _compiled_kernels, _triton_kernels
from hybridopt.parts.stores._int8_weight import Int8Weight

from .absent import KEPT, inductor
from .machine_code import kernels
from .rows import BOUND, Row
from .stand_ins import without_memory

__all__ = ["made"]

NAME, SHAPE = "model.layers.0.mlp.up_proj.weight", (14336, 4096)


def made(row: Row) -> dict:
    """Return the graphs of the first update of one matrix of Llama-3-8B: kernels, buffers, and their machine code."""
    failed: list[str] = []  # of every graph, as none gets further than its code
    fused = row.release == "fused"
    with inductor() as written, without_memory(), FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as stack:
        stack.enter_context(patch.object(_compiled_kernels, "_give_up", lambda _, error: failed.append(str(error))))
        stack.enter_context(
            patch.object(_triton_kernels, "installed", lambda planned: False)
        )  # inductor's own are wanted
        p = nn.Parameter(_weight(row))  # held by nobody else, or its update would wait for step()
        told: dict[str, Any] = {
            "policy": row.policy,
            "release": row.release,
            "nonfinite": "raise" if fused else "ignore",
        }
        optimizer = HybridOptimizer([(NAME, p)], lr=1e-3, **told, **row.options)
        p.grad = torch.empty(SHAPE, dtype=torch.bfloat16, device="cuda")
        optimizer.gradient_ready(NAME, p) if fused else optimizer.step()
        graphs = [_graph(code) for code in written]
    wrong = [text for text in failed if KEPT not in text]
    wrong += [] if graphs else ["nothing was compiled"]
    return {"graphs": graphs} | ({"error": wrong[0]} if wrong else {})


def _weight(row):
    weight = torch.empty(SHAPE, dtype=torch.bfloat16, device="cuda")
    return Int8Weight.quantize(weight) if row.coded else weight


def _graph(code):
    return {"buffers": code.count(" = empty_strided_cuda("), "kernels": [asdict(one) for one in kernels(code)]}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(made(BOUND[sys.argv[1]])))
