"""Random bits as numbers, looked up in tables: signs, and quantiles of the normal distribution (NOISE.md)."""

from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["normals", "quantiles", "signs", "table"]


def signs(bits: Tensor) -> Tensor:
    """Return +1 for a bit that is 0, -1 for one that is 1, lowest bits first."""
    return _looked_up(_sign_table(bits.device), bits, torch.uint8)


def normals(bits: Tensor) -> Tensor:
    """Return a quantile of the standard normal for every 16 bits, lowest bits first."""
    return _looked_up(quantiles(bits.device), bits, torch.int16)


def table(kind: str, device: torch.device) -> Tensor:
    """Return the table that noise of a kind, "rademacher" or "gaussian", is looked up in; made once for a device."""
    return _sign_table(device) if kind == "rademacher" else quantiles(device)


def _looked_up(table: Tensor, bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the entries for the unsigned numbers, as wide as this dtype, that the bits are; the lowest bits first."""
    index = bits.view(dtype).view(-1)
    if index.device.type == "cpu":  # NumPy's is twice as fast as torch's
        return torch.from_numpy(table.numpy().take(index.numpy(), axis=0, mode="wrap")).view(-1)
    return table.index_select(0, index.int() & len(table) - 1).view(-1)


@lru_cache
def _sign_table(device: torch.device) -> Tensor:
    """Return the signs of every byte: float32 [256, 8]."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return (1 - 2 * bits).float()


@lru_cache
def quantiles(device: torch.device) -> Tensor:
    """Return the quantiles of the standard normal at (i + 0.5) / 65536, to multiples of 2**-10: float32 [65536].

    None is so near to the middle of two that another library of mathematics could round it to the other.
    """
    quantile = NormalDist().inv_cdf
    lower = [round(1024 * quantile((i + 0.5) / 65536)) for i in range(32768)]
    return torch.tensor([*lower, *(-x for x in reversed(lower))], device=device) / 1024
