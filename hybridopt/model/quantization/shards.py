"""Quantized weights that FSDP2 has sharded: those whose codes may be cut anywhere, and those that stay whole."""

from torch import nn

from ...core.errors import HybridOptError
from ..sharding import is_sharded
from .owners import owner
from .replacing import guard_

__all__ = ["follow_shards_"]


def follow_shards_(model: nn.Module) -> None:
    """Let schemes know the weights that were sharded since they were quantized.

    Raises HybridOptError for codes that a scheme does not know without their constants.
    """
    packed = [(n, p) for n, p in model.named_parameters() if is_sharded(p) and not p.is_floating_point()]
    if packed:
        guard_(model)
    for name, p in packed:
        if owner(p) is None:
            raise HybridOptError(
                f"parameter {name!r} is quantized ({p.dtype}), and fully_shard has cut its codes from their scales: "
                "leave such weights on every rank, fully_shard(..., ignored_params={p for p in model.parameters() if "
                "not p.is_floating_point()}), or take quantization='nf4'"
            )
