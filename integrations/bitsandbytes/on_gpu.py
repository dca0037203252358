"""What the products of bitsandbytes take for themselves, and fake tensors that compute as there."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.patching import instead

__all__ = ["as_on_gpu", "dense_room", "many_tokens_room", "outlier_room", "product_room"]

DEQUANTIZES_FROM = 1537  # tokens: the CUDA product makes the dense weight first (0.50, gemm_4bit)


def dense_room(args: tuple, kwargs: dict[str, Any]) -> int:
    """Return the bytes of the dense weight that a 4-bit product makes first, of its scales, and of its output."""
    x, _, shape, _ = args[:4]
    tokens = x.numel() // x.shape[-1]
    scales = kwargs.get("absmax_8bit")
    dense = shape[0] * shape[1] * x.element_size() + (0 if scales is None else 4 * scales.numel())
    return int(dense + tokens * shape[0] * x.element_size())


def many_tokens_room(args: tuple, kwargs: dict[str, Any]) -> int:
    """Return the bytes that a 4-bit product takes where it makes the dense weight for many tokens only."""
    x = args[0]
    return dense_room(args, kwargs) if x.numel() // x.shape[-1] >= DEQUANTIZES_FROM else 0


def product_room(args: tuple, kwargs: dict[str, Any]) -> int:
    """Return the bytes of an 8-bit product: whole numbers, then float16, then the dtype that was asked for."""
    codes, weight = args[:2]
    dtype = kwargs.get("dtype") or torch.float16
    size = 6 if dtype == torch.float16 else 6 + dtype.itemsize
    return size * (codes.numel() // codes.shape[-1]) * weight.shape[0]


def outlier_room(args: tuple, kwargs: dict[str, Any]) -> int:
    """Return the bytes of looking for large activations: their absolute values, and one byte for each."""
    return 3 * args[0].numel()


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Let 8-bit layers take the product of GPUs for tensors on CPUs, and log nothing about it."""
    functions = sys.modules.get("bitsandbytes.autograd._functions")
    if functions is None:
        yield
        return
    quiet = logging.Logger("unheard", logging.CRITICAL)
    with instead(functions, "MatMul8bitFp", _OnGpu), instead(functions, "logger", quiet):
        yield


class _OnGpu:
    """Stand in for the 8-bit product that bitsandbytes takes for tensors on CPUs."""

    @staticmethod
    def apply(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor, state: Any) -> Tensor:
        """Compute the product of GPUs, without outliers, as their number depends on values."""
        from bitsandbytes.autograd._functions import MatMul8bitLt

        state.threshold = 0.0
        return MatMul8bitLt.apply(x, weight, out, bias, state)
