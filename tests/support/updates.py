"""Updates of a few parameters, ready to be carried out, for every combination of parts."""

from dataclasses import dataclass, replace
from itertools import product

import torch

from hybridopt import HybridOptError, Plan, Policy, Route, Treatment
from hybridopt.core.contracts import Draw, Population
from hybridopt.core.registry import make
from hybridopt.execution.state import allocate, basis
from hybridopt.execution.update_task import Task
from hybridopt.model.roles import Param
from hybridopt.parts.stores._int8_weight import Int8Weight
from hybridopt.policy.job import declare

SHAPE, LR, DECAY, COUNT = (32, 64), 0.1, 0.99, 3
OPTIONS = {"int8": {"block": 16, "exact_below": 0}}  # so that the smallest state is kept in 8 bits, too
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16, "codes": None}


@dataclass(frozen=True)
class Cell:
    """What is combined: names of parts, the weight's dtype or "codes".

    nearest: no stochastic rounding; still: nothing moves outside the state-full part.
    """

    full: str
    split: str
    codec: str
    weight: str
    nearest: bool = False
    still: bool = False

    @property
    def free(self):
        """The name of the state-free rule."""
        return "no_update" if self.still else "normalized_sgd" if self.codec == "bf16" else "signsgd"

    def treatment(self):
        """Make the treatment."""
        density = {} if self.split in ("whole", "empty") else {"density": 0.5, "update_gap": 2}
        return Treatment(
            make("rules", self.full),
            make("rules", self.free),
            make("splits", self.split, **density),
            make("codecs", self.codec, **OPTIONS.get(self.codec, {})),
            make("stores", "dense") if self.nearest else None,
            lr_scale=0.5,
            free_lr_scale=0.5,
        )


def cells(rules, splits, codecs, weights, **options):
    """Every combination that a plan accepts."""
    for parts in product(rules, splits, codecs, weights):
        cell = Cell(*parts, **options)
        if job_of(cell) is not None:
            yield cell


def job_of(cell):
    """Return the job of the first window with a state-full part, None where the combination is refused."""
    dtype, codes = DTYPES[cell.weight] or torch.float32, None if DTYPES[cell.weight] else torch.uint8
    params = [Param(f"w{i}", "linear", SHAPE, dtype, codes=codes) for i in range(COUNT)]
    try:
        plan = Plan.of(params, Policy((Route(cell.treatment()),)))
    except HybridOptError:
        return None
    return plan.first(plan.entries[0])


def tasks_of(cell):
    """Return tasks of equal jobs, by random weights and gradients, with state of zeros and a basis that is drawn."""
    job, random = job_of(cell), torch.Generator().manual_seed(5)
    return [_task(cell, job, f"w{i}", random) for i in range(COUNT)]


def _task(cell, job, name, random):
    dtype = DTYPES[cell.weight] or torch.float32
    param, grad = (torch.randn(job.shape, generator=random).to(dtype) for _ in range(2))
    raw = {key: allocate(slot, param.device) for key, slot in declare(job).items()}
    job.part.sample(grad, basis(job, raw), Draw(0, name, population=Population(((name, param.numel()),))))
    codes = DTYPES[cell.weight] is None
    store = job.treatment.store_for(torch.uint8 if codes else dtype)
    return Task(Int8Weight.quantize(param) if codes else param, grad, raw, job, store, LR, DECAY, 1, (0, name), step=0)


def later(task, random):
    """The same task one step on, with another gradient."""
    grad = torch.randn(task.grad.shape, generator=random).to(task.grad.dtype)
    return replace(task, grad=grad, age=task.age + 1, step=task.step + 1)


def copy(task):
    """The same task on tensors of its own."""
    return replace(task, param=task.param.clone(), raw={name: x.clone() for name, x in task.raw.items()})
