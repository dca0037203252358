"""Saved optimizer states spoilt at random, one after the other by seed: each is refused, or loads and trains on."""

import copy
import random
from collections import Counter

import torch
from torch import nn

from hybridopt import HybridOptError, HybridOptimizer
from support.training import assert_same, give, snapshot

SHAPES = {"layers.0.weight": (12, 8), "layers.0.bias": (12,), "layers.1.weight": (8, 20), "norm.weight": (6,)}
TINY8 = {"part": "codecs.int8", "block": 16, "exact_below": 0}
POLICIES = {
    "adamw": {"policy": "adamw"},
    "adamw-tensor-lr": {"policy": "adamw", "lr": torch.tensor(0.01)},
    "columns": {"policy": "frugal", "density": 0.5, "update_gap": 3},
    "keep": {"policy": "frugal", "density": 0.5, "update_gap": 3, "reset": False},
    "randk": {"policy": "frugal", "split": "randk", "density": 0.5, "update_gap": 3},
    "block": {"policy": "frugal", "split": "block", "density": 0.5, "update_gap": 3},
    "int8": {"policy": "frugal", "codec": TINY8, "density": 0.5, "update_gap": 3, "weight_decay": 0.1},
    "bf16": {"policy": "frugal", "codec": "bf16", "full": "lion", "split": "rows", "density": 0.5, "update_gap": 3},
    "galore": {"policy": "galore", "density": 0.5, "update_gap": 3},
    "qgalore": {"policy": "qgalore", "density": 0.5, "update_gap": 1},
    "random": {"policy": "frugal", "split": "random", "density": 0.5, "update_gap": 3},
    "badam": {"policy": "badam", "update_gap": 3},
    "adam_mini": {"policy": "adam_mini"},
    "adafactor": {"policy": "adafactor"},
    "came": {"policy": "came"},
    "apollo": {"policy": "apollo", "density": 0.25, "update_gap": 3},
    "muon": {"policy": "muon"},
    "adalomo": {"policy": "adalomo"},
    "signsgd": {"policy": "signsgd"},
    "scale": {"policy": "scale", "head": "full"},
    "whiten": {"policy": "frugal", "free": "whiten", "density": 0.5, "update_gap": 3},
    "clip": {"policy": "sgd", "clip": 0.5, "clip_mode": "previous"},
    "mezo": {"policy": "mezo"},
    "fzoo": {"policy": "fzoo", "samples": 3},
    "subzero": {"policy": "subzero", "rank": 2, "update_gap": 2},
    "zo_adam": {"policy": "zo_adam"},
    "addax": {"policy": "addax"},
    "groups": {"policy": "frugal", "density": 0.5, "update_gap": 3, "weight_decay": 0.1},
    "groups, galore": {"policy": "galore", "density": 0.5, "update_gap": 3, "weight_decay": 0.1},
    "groups, mezo": {"policy": "mezo"},
}
HUGE = 10**5000
NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, -1e-3, 0, 1e300, 2**31, 2**53 + 1, 2**63, 10**30, HUGE)
OTHERS = ("", "x" * 10_000, "\0", b"\xff", None, True, 1j, [], {}, (), [[]], {"a": 1}, object(), len, {1, 2})
TENSORS = (
    lambda: torch.tensor(float("nan")),
    lambda: torch.ones(3),
    lambda: torch.ones(2, 2, requires_grad=True) * 2,
    lambda: torch.ones(4, 4).to_sparse(),
    lambda: torch.ones(4, device="meta"),
    lambda: torch.ones(4, dtype=torch.complex64),
    lambda: torch.ones(4, dtype=torch.int64),
)
ENTRIES = (float("nan"), float("inf"), -float("inf"), -1, 10, 10**5, 10**9)  # written over one entry
WHOLE = {
    "longer": lambda x: torch.cat([x, x]),
    "flat": lambda x: x.reshape(-1),
    "turned": lambda x: x.mT if x.ndim > 1 else x.flip(0),
    "another shape of as many": lambda x: x.reshape(*x.shape[1:], *x.shape[:1]),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "complex": lambda x: x.to(torch.complex64),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "int64": lambda x: x.to(torch.int64),
    "bool": lambda x: x.bool(),
    "expanded": lambda x: x.reshape(-1)[:1].reshape((1,) * x.ndim).expand(x.shape),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "with a gradient": lambda x: x * torch.ones((), requires_grad=True),
}


def make(policy, step=0):
    """Parameters, module and optimizer of a policy; `step` steps have been taken."""
    generator = torch.Generator().manual_seed(0)
    params = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    named = list(params.items())
    given = [{"params": named[:3], "name": "low"}, {"params": named[3:]}] if policy.startswith("groups") else named
    optimizer = HybridOptimizer(given, **{"lr": 0.01} | POLICIES[policy])
    for i in range(step):
        advance(optimizer, params, i)
    return params, optimizer


def advance(optimizer, params, step):
    """One step of any policy."""
    if optimizer.probes_needed:
        optimizer.probe(lambda: sum(p.square().sum() for p in params.values()))
    if optimizer.gradients_needed:
        give(params, step)
    optimizer.step()


def spoil(saved, rng):
    """Change one thing in a state dict, in place; says what."""
    places = list(_places(saved))
    tensors = [place for place in places if isinstance(place[0][place[1]], torch.Tensor)]
    holder, key, path = rng.choice(tensors if tensors and rng.random() < 0.4 else places)
    value = holder[key]
    if isinstance(value, torch.Tensor) and _plain(value) and rng.random() < 0.8:
        holder[key], how = _spoilt(value.clone(), rng)
        return f"{path}: {how}"
    act = rng.choice(("number", "number", "other", "tensor", "drop", "add", "twice"))
    if act == "drop":
        del holder[key]
    elif act == "add" and isinstance(holder, dict):
        holder[rng.choice(("more", 10**6, "", "exp_avg"))] = rng.choice((*NUMBERS, *OTHERS))
    elif act == "twice" and isinstance(holder, list):
        holder.append(copy.copy(value))
    else:
        holder[key] = rng.choice({"tensor": [make() for make in TENSORS], "other": OTHERS}.get(act, NUMBERS))
        return f"{path}: {type(holder[key]).__name__} {repr(holder[key])[:40] if holder[key] is not HUGE else 'huge'}"
    return f"{path}: {act}"


def _plain(x):
    """Can it be spoilt, again?"""
    whole = x.ndim and x.numel() and x.layout == torch.strided and not x.is_meta and not x.is_quantized
    return whole and not x.is_complex() and not x.requires_grad


def _spoilt(x, rng):
    shape = x.shape
    if rng.random() < 0.5:
        entry = rng.choice(ENTRIES if x.is_floating_point() else [n for n in ENTRIES if isinstance(n, int)])
        entry = entry if x.itemsize > 1 else entry % 100
        x = x.reshape(-1)
        x[rng.randrange(x.numel())] = entry
        return x.view(shape), f"an entry of {entry}"
    how = rng.choice(sorted(WHOLE))
    return WHOLE[how](x), how


def _places(value, path=""):
    """(holder, key, path) of everything in nested dicts and lists, the whole above its parts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key, f"{path}/{key}"
        yield from _places(item, f"{path}/{key}")


def attack(seed, policies=tuple(POLICIES)):
    """Spoil one state by a seed and load it; returns (outcome, text): "refused", "loaded", or what went wrong."""
    rng = random.Random(seed)
    policy = policies[seed % len(policies)]
    params, optimizer = make(policy, rng.randrange(1, 8))
    saved = copy.deepcopy(optimizer.state_dict())
    done = [spoil(saved, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    text = f"seed {seed}, {policy}: {'; '.join(done)}"
    before = snapshot(optimizer, params), copy.deepcopy(optimizer.state_dict())
    try:
        optimizer.load_state_dict(saved)
    except HybridOptError as error:
        try:
            assert_same(before, (snapshot(optimizer, params), optimizer.state_dict()))
        except AssertionError:
            return "changed", f"{text}: refused ({error}), and something was changed"
        return "refused", f"{text}: {error}"
    except Exception as error:
        return "foreign", f"{text}: {type(error).__name__}: {error}"
    try:
        for step in range(3):
            advance(optimizer, params, step)
    except Exception as error:
        return "failed later", f"{text}: loaded, then {type(error).__name__}: {error}"
    if not all(p.isfinite().all() for p in params.values()):
        return "not finite", f"{text}: loaded, and the weights are not finite"
    return "loaded", text


def campaign(seeds):
    """Attack by every seed; the outcomes counted, and the texts of those that should not be."""
    found = [attack(seed) for seed in seeds]
    return Counter(kind for kind, _ in found), [text for kind, text in found if kind not in ("refused", "loaded")]
