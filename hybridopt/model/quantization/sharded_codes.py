"""Quantized weights that FSDP2 has sharded: those whose codes may be cut anywhere, and those that stay whole."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from ...core.errors import HybridOptError
from ...core.registry import every
from ..fsdp.coded_shards import CODES, shard_of
from ..fsdp.sharded_tensors import as_cut, coded, codes_of, is_sharded, span
from ..fsdp.units import casts
from ..roles import base_name
from .owners import owner
from .replacing import guard_

__all__ = ["ShardedCodes", "follow_shards_"]

NUMBERS_STAY = "2.13"  # the first torch that is known to gather integers as they are, whatever param_dtype is
WHOLE = (
    "leave such weights on every rank, fully_shard(..., ignored_params={p for p in model.parameters() if type(p) is "
    "not torch.nn.Parameter})"
)


def follow_shards_(model: nn.Module, quantized: Collection[str] = ()) -> None:
    """Let schemes know the weights that were sharded since they were quantized.

    Args:
        model: sharded or not.
        quantized: base names of weights that were quantized when the model was wrapped, without ".weight".

    Raises:
        HybridOptError: for codes that a scheme does not know without their constants, and for stacks of matrices
            that fully_shard has turned into floats.
    """
    for name, p in model.named_parameters() if quantized else ():
        floats = is_sharded(p) and coded(p) is None and p.is_floating_point()
        if floats and base_name(name).removesuffix(".weight") in quantized:
            raise HybridOptError(
                f"parameter {name!r} was quantized, and fully_shard has turned its rows into {p.dtype}; {WHOLE}"
            )
    packed = [(n, p) for n, p in model.named_parameters() if is_sharded(p) and not p.is_floating_point()]
    if packed:
        guard_(model)
    if packed and casts(model) and TorchVersion(torch.__version__) < NUMBERS_STAY:
        raise HybridOptError(
            f"parameter {packed[0][0]!r} is quantized and sharded, with a MixedPrecisionPolicy, and torch "
            f"{torch.__version__} may turn its codes into numbers of param_dtype: take torch {NUMBERS_STAY}, or "
            f"{WHOLE}"
        )
    for name, p in packed:
        if owner(p) is None:
            raise HybridOptError(
                f"parameter {name!r} is quantized ({p.dtype}), and fully_shard has cut its codes from their scales: "
                f"{WHOLE}, or take quantization={' or '.join(repr(x.name) for x in every('schemes') if x.shards)}"
            )


class ShardedCodes:
    """Sharded weights that are trained as codes, written from whole tensors that come one after the other.

    Args:
        model: that has them.
    """

    def __init__(self, model: nn.Module):
        self._weights = {
            base_name(n): p for n, p in model.named_parameters() if is_sharded(p) and coded(p) is not None
        }
        self._waiting: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def take_(self, name: str, value: Tensor) -> bool:
        """Take a tensor, and write to what this rank has of its weight if it was the last one of that.

        Args:
            name: of the weight in the base, and of the part: "layer.weight.codes".
            value: whole; it is not read later.

        Returns:
            Whether it is of such a weight.
        """
        weight, _, part = name.rpartition(".")
        p = self._weights.get(weight)
        if p is None:
            return False
        own, (first, end) = codes_of(p), span(p)
        parts = self._waiting.setdefault(weight, {})
        parts[part] = as_cut(value[first:end].clone(), p) if part == CODES else value.clone()
        if parts.keys() == own.parts().keys():
            own.copy_(shard_of(p, self._waiting.pop(weight)))
        return True
