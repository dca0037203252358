"""Eager updates in the order in which Triton kernels of the project add up, so that both have the same bits."""

from dataclasses import replace

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hybridopt.execution.backends.triton_rounds import BLOCK, SETTLE, _tall
from hybridopt.execution.update import update
from hybridopt.execution.update_task import Task

__all__ = ["KernelOrder", "copied", "eager", "later"]


def copied(one: Task, **other) -> Task:
    raw = {name: x.clone() for name, x in one.raw.items()}
    return replace(one, param=one.param.clone(), raw=raw, **other)


def later(one: Task) -> Task:
    random = torch.Generator().manual_seed(one.step)
    grad = (torch.randn(one.grad.shape, generator=random) * 0.01).to(one.grad.dtype)
    return replace(one, grad=grad, age=one.age + 1, step=one.step + 1)


class KernelOrder(TorchDispatchMode):
    """Eager operations whose sums are added as programs of the kernels add them, and whose roots are exact."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, x = func._schema.name.removeprefix("aten::"), args[0]
        if name in ("sum", "mean") and x.is_floating_point():
            dims = args[1] if len(args) > 1 else (kwargs or {}).get("dim")
            keep = (args[2] if len(args) > 2 else False) or (kwargs or {}).get("keepdim", False)
            return self._reduced(x, dims, keep, name)
        if name in ("linalg_vector_norm", "sqrt", "rsqrt") or (name == "pow" and args[1] == 0.5):
            if name == "linalg_vector_norm":
                dims = args[2] if len(args) > 2 else None
                x = self._reduced(x * x, dims, bool(dims) and args[3], "sum")
            root = x.double().sqrt().float()
            return root.reciprocal() if name == "rsqrt" else root
        return func(*args, **(kwargs or {}))

    def _reduced(self, x, dims, keep, name):
        many = x.numel() // max(1, self._summed(x, dims, True).numel())
        out = self._summed(x, dims, keep)
        return out / float(many) if name == "mean" else out

    def _summed(self, x, dims, keep):
        over = sorted(d % x.ndim for d in (dims if dims else range(x.ndim)))
        long = [d for d in over if x.shape[d] > 1]
        out = x.numpy()
        if x.ndim == 3 and long == [2]:  # of heads, one line after the other
            out = np.add.accumulate(out, 2)[:, :, -1:]
        elif x.ndim == 2 and long == [1]:
            out = _in_blocks(out, BLOCK)
        elif x.ndim == 2 and long == [0] and x.shape[1] > 1:
            out = _down_columns(out)
        elif long:
            assert len(long) == 1, "no rule sums all of a matrix at once"
            out = _in_blocks(out.reshape(1, -1), SETTLE["BS"]).reshape([1] * x.ndim)
        shape = [1 if d in over else n for d, n in enumerate(x.shape)]
        made = torch.from_numpy(np.ascontiguousarray(out)).reshape(shape)
        return made if keep else made.reshape([n for d, n in enumerate(shape) if d not in over])


def _in_blocks(x, block):
    """Sums along rows: a block of columns at a time, element by element, then those of the block."""
    total = np.zeros((x.shape[0], block), np.float32)
    for start in range(0, x.shape[1], block):
        piece = x[:, start : start + block]
        total[:, : piece.shape[1]] += piece
    return np.sum(total, 1, keepdims=True)


def _down_columns(x):
    tall = _tall(len(x))
    lines = np.stack([np.sum(x[start : start + tall], 0) for start in range(0, len(x), tall)])
    total = np.zeros((SETTLE["BP"], x.shape[1]), np.float32)
    total[: len(lines)] = lines
    return np.sum(total, 0, keepdims=True)


def eager(one: Task) -> None:
    """The eager update with its numbers in float32, as kernels are told them."""
    now = one.now()
    full, free = ({k: torch.tensor(x) for k, x in some.items()} for some in (now.full, now.free))
    update(one.param, one.grad, one.raw, one.job, one.store, replace(now, full=full, free=free))
