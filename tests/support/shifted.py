"""Shifts of weights, models that were really moved, and everything that must stay."""

import copy
import hashlib
import zlib

import torch
from torch import nn
from torch.nn import functional as F

from support.models import VOCAB


def delta(name, p, scale=0.2):
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return (scale * torch.randn(p.shape, generator=random, dtype=torch.float32)).to(p.dtype)


def add(name, p):
    return p.detach() + delta(name, p)


def subtract(name, p):
    return p.detach() - delta(name, p)


def still(name, p):
    return None


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def moved(model, shift=add):
    """A copy whose weights were really changed."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in trained(other).items():
            p.copy_(shift(name, p))
    return other


def state(model):
    """Everything that must stay, to the bit."""
    marks = {}
    for module in model.modules():
        hooks = [*module._forward_hooks, *module._forward_pre_hooks, *module._forward_hooks_always_called]
        marks[id(module)] = (len(hooks), {name: id(p) for name, p in module._parameters.items()})
    for name, x in model.named_parameters():
        marks[name] = (sha(x), x._version, x.data_ptr(), x.requires_grad, None if x.grad is None else id(x.grad))
    for name, x in model.named_buffers():
        marks[name] = (sha(x), id(x), x.data_ptr())
    return marks


def sha(x):
    return hashlib.sha256(x.detach().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


class Functional(nn.Module):
    """Every way to use a weight outside its module's forward."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, 8)
        self.lin = nn.Linear(8, 8)
        self.odd = nn.Linear(8, 8)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(8)) for _ in range(2)])
        self.free = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        h = self.lin(self.emb(x)) * self.scales[1] + self.free
        h = h + self.odd.forward(h)
        return F.linear(h, self.emb.weight).logsumexp(-1).mean()
