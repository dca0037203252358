"""What the tests of zeroth-order methods share: directions, losses and steps restated from the papers' equations."""

import copy

import torch
from torch import nn

from hybridopt.core.contracts import stream
from hybridopt.core.numerics.directions import Direction, values


def net(dtype=torch.float32, seed=0):
    """A small network with matrices, a vector and a norm."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.Tanh(), nn.Linear(10, 4, bias=False))
    return layers.to(dtype)


def data(seed=1, rows=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator), torch.randn(rows, 4, generator=generator)


def loss_of(model, batch=None):
    x, y = data() if batch is None else batch
    dtype = next(model.parameters()).dtype
    return nn.functional.mse_loss(model(x.to(dtype)).float(), y)


def direction(name, p, step=0, index=0, seed=0, kind="rademacher"):
    """z of a parameter, in its shape."""
    return values(Direction(stream(seed, name, "z"), step, index, kind), 0, p.numel(), p.device).view(p.shape)


def directions(model, **where):
    return {name: direction(name, p, **where) for name, p in model.named_parameters()}


def moved(model, by, scale):
    """A copy of the model at theta + scale z; None leaves a parameter alone."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if by.get(name) is not None:
                p.copy_((p.float() + scale * by[name]).to(p.dtype))
    return other


def slope(model, z, eps, loss=loss_of):
    """(l(theta + eps z) - l(theta - eps z)) / (2 eps)."""
    with torch.no_grad():
        up, down = (loss(moved(model, z, sign * eps)).double().item() for sign in (1, -1))
    return (up - down) / (2 * eps)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}
