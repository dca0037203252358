"""Which parameters of an optimizer follow from slopes alone, and what else must be known of them."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...core.contracts import Population, Shape
from ...model.fsdp.sharded_tensors import is_sharded, local
from ...model.roles import codes_dtype
from ...parts.rules.sgd import SGD
from ...parts.rules.signsgd import SignSGD
from ...parts.splits.empty import Empty
from ...parts.stores.bf16_stochastic import Bf16Stochastic
from ...parts.stores.dense import Dense
from ...policy.routes import pack_treatment
from ...policy.treatment import Treatment
from ..parameters import Parameters

__all__ = ["Followed", "follow", "group_key", "head", "head_elements", "replayable", "version"]

HEAD = 128  # elements


@dataclass(frozen=True, eq=False)
class Followed:
    """A parameter with all that its updates depend on, beside slopes, learning rate and decay.

    seen: its shape as updates see it. group: the first in the alphabet of the names in its param group.
    """

    name: str
    p: Tensor
    treatment: Treatment
    seed: int
    population: Population
    seen: Shape
    group: str


@lru_cache(maxsize=256)
def replayable(treatment: Treatment, dtype: torch.dtype) -> bool:
    """Tell whether updates are the same bits on every device, by slopes, learning rate and decay alone.

    That takes elementwise directions, a rule without state, a weight in a dtype of its own, and parts that a file can
    name. Signs of several directions, or of normal ones, are taken in tensor arithmetic, which would round a scaled
    rate otherwise if it is a tensor.
    """
    t = treatment
    source = t.probed and t.source.exact and not t.source.backward
    scaled = (t.lr_scale, t.free_lr_scale) != (1, 1)
    rule = type(t.free) is SGD or (type(t.free) is SignSGD and not (scaled and _several(t.source)))
    store = type(t.store_for(dtype)) in (Dense, Bf16Stochastic)
    return source and rule and type(t.split) is Empty and store and '{"custom": ' not in json.dumps(pack_treatment(t))


def follow(parameters: Parameters) -> list[Followed]:
    """Return the parameters of an optimizer whose updates can be replayed from slopes alone."""
    found = []
    for one in parameters.windows.all():
        treatment = one.job.treatment
        if _plain(one.p) and replayable(treatment, one.p.dtype):
            draw, key = parameters.windows.probe_draw(one.group, one.name), group_key(one.group)
            found.append(Followed(one.name, one.p, treatment, draw.seed, draw.population, one.job.shape, key))
    return found


def head(p: Tensor, seen: Shape) -> Tensor:
    """Copy the first elements of a parameter's first row, as updates see it: rounding depends on rows and columns.

    p: the parameter. seen: its shape as updates see it.
    """
    row = p.detach().reshape(seen).reshape(-1, seen[-1] if len(seen) > 1 else p.numel())[:1]
    return row[:, :HEAD].clone()


def head_elements(seen: Shape) -> int:
    """Return how many elements `head` copies of a parameter of this shape, as updates see it."""
    elements = math.prod(seen)
    return min(HEAD, seen[-1]) if seen and elements else elements


def version(p: Tensor) -> int:
    """Return a number that grows whenever torch writes to a parameter, or to this rank's rows of a sharded one."""
    return p._version + (local(p)._version if is_sharded(p) else 0)


def group_key(group: dict) -> str:
    """Return what tells a param group from others, whatever the order of parameters."""
    return min(group["param_names"])


def _several(source):
    return source.scheme is not None and (source.scheme.samples > 1 or source.kind != "rademacher")


def _plain(p):
    """Neither codes nor without values."""
    return codes_dtype(p) is None and not p.is_meta
