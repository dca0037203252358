"""Models trained by losses alone, and what their saved scalars say."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from hybridopt import Route, Treatment
from hybridopt.parts.rules.sgd import SGD
from hybridopt.parts.rules.signsgd import SignSGD
from hybridopt.parts.sources.lezo import LeZO
from hybridopt.parts.sources.spsa import SPSA
from hybridopt.parts.splits.empty import Empty

REPLAY, DELTA = "hybridopt_replay.safetensors", "hybridopt_delta.safetensors"


def deep(dtype=torch.float32):
    """Layers in a list, as LeZO wants them, a convolution, and a tensor that updates see in slices."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv1d(3, 4, 3), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 5)])
    return nn.ModuleDict({"layers": layers, "table": nn.Embedding(129, 1100)}).to(dtype)


def height(model):
    """A loss that depends on all weights."""
    return sum((p.float().sin() * (1 + i)).mean() for i, p in enumerate(model.parameters()))


def same(one, other):
    left, right = dict(one.state_dict()), dict(other.state_dict())
    return left.keys() == right.keys() and all(torch.equal(x, right[n]) for n, x in left.items())


def metadata(folder):
    with safe_open(Path(folder) / REPLAY, framework="pt") as file:
        return json.loads(file.metadata()["hybridopt_replay"])


def digest(model):
    return sha256(b"".join(x.view(torch.uint8).numpy().tobytes() for x in model.state_dict().values())).hexdigest()


MIXED = (
    Route(Treatment(source=SPSA(), free=SGD(), split=Empty()), role="norm"),
    Route(Treatment(source=SPSA(), free=SignSGD(), split=Empty(), lr_scale=0.5), name="layers.1*"),
    Route(Treatment(source=LeZO(0.5), free=SGD(), split=Empty(), weight_decay=0.1), name="layers.*"),
    Route(Treatment()),
)
