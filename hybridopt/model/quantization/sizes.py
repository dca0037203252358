"""The bytes and the bits of weights, quantized or not."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...core.storages import storage_id
from ..fsdp.sharded_tensors import local
from .owners import is_frozen, parts

__all__ = ["fingerprint", "weight_bytes"]


def weight_bytes(*things: nn.Module | Tensor) -> int:
    """Return the bytes of the weights in modules or tensors: values or codes, and every quantization constant.

    Memory that several share (tied weights) counts once per call; of sharded ones all ranks count.
    """
    tensors = [tensor for thing in things for tensor in _tensors(thing)]  # all alive, or memory would be used twice
    return sum({_place(t): t.nbytes for t in tensors}.values())


def _place(t: Any) -> tuple[int, int]:
    own: Any = local(t)
    return storage_id(own), own.storage_offset()


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of the bits of all frozen quantized weights and their constants, in module order."""
    digest = hashlib.sha256()
    for p, module in _owned(model):
        if is_frozen(p):
            for tensor in parts(p, module).values():
                bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
                digest.update(bits.cpu().numpy().data)
    return digest.hexdigest()


def _tensors(thing: nn.Module | Tensor) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield from parts(thing).values()
    else:
        for p, module in _owned(thing):
            yield from parts(p, module).values()


def _owned(model: nn.Module) -> Iterator[tuple[Tensor, nn.Module]]:
    for module in model.modules():
        for p in module.parameters(recurse=False):
            yield p, module
