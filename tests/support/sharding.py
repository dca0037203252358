"""A model that is sharded or not, and trained by gradients that are given: sharding is all that differs."""

import warnings
from contextlib import contextmanager

import torch
from torch import distributed, nn

from hybridopt import HybridOptimizer

__all__ = ["Odd", "by_layer", "going_on", "kept", "place", "sharded", "trained", "weights"]


class Odd(nn.Module):
    """Sizes that no number of ranks divides: an odd vocabulary, 9 rows, 1 row, a convolution, norms."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 6)
        self.layers = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 9, bias=False))
        self.norm = nn.LayerNorm(9)
        self.wide = nn.Linear(8, 32, bias=False)
        self.conv = nn.Conv1d(4, 5, 3)
        self.down = nn.Linear(9, 1)
        self.to(dtype)

    def forward(self, tokens):
        return self.down(self.norm(self.layers(self.embed(tokens)))) + self.wide.weight.sum() + self.conv.weight.sum()


def by_layer(model, layers=None, **options):
    """Shard each layer of a model by itself, and what is left of it; return the model.

    Args:
        model: with adapters or without.
        layers: its layers; None: those of a language model of transformers.
        options: of `fully_shard`.
    """
    from torch.distributed.fsdp import fully_shard

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in base.model.layers if layers is None else layers:
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def sharded(model, **options):
    return by_layer(model, (*model.layers, model.wide), **options)


@contextmanager
def going_on(model, optimizer, folder, number):
    """Load what the part before `number` of a run has saved in a folder, and save this one afterwards."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def state():
        return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))

    if number:
        checkpoint.load(before := state(), checkpoint_id=f"{folder}/{number}")
        set_state_dict(model, optimizer, model_state_dict=before["model"], optim_state_dict=before["optimizer"])
    yield
    checkpoint.save(state(), checkpoint_id=f"{folder}/{number + 1}")


def place(x, p):
    """A whole tensor that all ranks have, as `p` is; nothing is sent."""
    if not hasattr(p, "device_mesh"):
        return x
    from torch.distributed.tensor import DTensor

    last = p.device_mesh.ndim - 1
    ranks, rank = p.device_mesh.size(last), p.device_mesh.get_local_rank(last)
    each = -(-len(x) // ranks)
    own = x[rank * each : (rank + 1) * each].contiguous()
    return DTensor.from_local(own, p.device_mesh, p.placements, run_check=False, shape=x.shape, stride=x.stride())


def give(model, step):
    """Give every parameter the gradient of a step, the same however it is sharded."""
    for name, p in sorted(model.named_parameters()):
        random = torch.Generator().manual_seed(step * 1000 + sum(map(ord, name)))
        p.grad = place(torch.randn(p.shape, generator=random).to(p.dtype), p)


def trained(model, options, steps=3, first=0, optimizer=None, lr=0.05):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = optimizer or HybridOptimizer(model.named_parameters(), lr, module=model, **options)
        for step in range(first, first + steps):
            give(model, step)
            optimizer.step()
            optimizer.zero_grad()
    return optimizer


def whole(x):
    return x.full_tensor() if hasattr(x, "full_tensor") else x.detach()


def weights(model):
    return {name: whole(p).detach().clone() for name, p in model.named_parameters()}


def kept(model, optimizer):
    """All state by parameter and name, whole."""
    saved = optimizer.state_dict()
    names = [n for group in saved["param_groups"] for n in group["param_names"]]
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    states = zip(names, (saved["state"].get(i, {}) for i in ids), strict=True)
    return {
        f"{name}.{key}": whole(x) if isinstance(x, torch.Tensor) else x
        for name, state in states
        for key, x in state.items()
    }


def rank():
    return distributed.get_rank()
