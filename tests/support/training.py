"""Small trainings on given gradients: no model, no loss, the same numbers on every run."""

import copy
import io

import torch

from hybridopt import HybridOptimizer

SHAPES = {"a.0.weight": (12, 8), "a.0.bias": (12,), "a.1.weight": (6, 20), "a.1.norm": (6,)}


def tensors(shapes=SHAPES, dtype=torch.float32, seed=0):
    """Parameters by name, normally distributed; every name has its own numbers."""
    return {
        name: torch.nn.Parameter(_random((seed, name, "weight"), shape).to(dtype)) for name, shape in shapes.items()
    }


def gradient(name, shape, step, seed=0):
    """The gradient of a parameter at a step, float64."""
    return _random((seed, name, step), tuple(shape))


def give(params, step, seed=0):
    """Set every gradient to that of this step."""
    for name, p in params.items():
        p.grad = gradient(name, p.shape, step, seed).to(p.dtype)


def advance(optimizer, params, steps, start=0, each=None):
    """Steps start ... start + steps - 1 on given gradients; `each(step)` runs after every one."""
    for step in range(start, start + steps):
        give(params, step)
        optimizer.step()
        if each is not None:
            each(step)


def optimize(params, **options):
    """A HybridOptimizer on named parameters, FRUGAL on columns with short windows unless told otherwise."""
    if "policy" not in options:
        options = {"density": 0.5, "update_gap": 3} | options
    return HybridOptimizer(list(params.items()), **{"lr": 0.01} | options)


def values(params):
    """Copies of all weights by name."""
    return {name: p.detach().clone() for name, p in params.items()}


def state_of(optimizer, params):
    """Copies of the state by name: tensors and numbers."""
    return {name: copy.deepcopy(dict(optimizer.state[p])) for name, p in params.items() if p in optimizer.state}


def clock(optimizer):
    """Steps taken by every group."""
    return [group["step"] for group in optimizer.param_groups]


def snapshot(optimizer, params):
    """Everything that training can change, to compare before and after."""
    return values(params), state_of(optimizer, params), clock(optimizer)


def assert_same(one, other):
    """Equal to the last bit: tensors by dtype, shape and bytes, also inside dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert _bits(one).equal(_bits(other)), f"{one} != {other}"
    elif isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert type(one) is type(other) and one == other


def twin(params):
    """The same weights in other tensors."""
    return {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}


def state_bytes(optimizer):
    """Bytes of all tensors that the optimizer holds."""
    kept = (x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor))
    return sum(x.numel() * x.element_size() for x in kept)


def _random(key, shape):
    seed = torch.Generator().manual_seed(abs(hash_of(key)))
    return torch.randn(shape, generator=seed, dtype=torch.float64)


def hash_of(key):
    """A number for a tuple of plain things, the same in every process."""
    out = 7
    for byte in repr(key).encode():
        out = (out * 1000003 ^ byte) & 0x7FFFFFFFFFFF
    return out


def _bits(x):
    return x.detach().contiguous().flatten().view(torch.uint8)


def through_a_file(state, weights_only=True):
    """Something as torch.save and torch.load give it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=weights_only)
