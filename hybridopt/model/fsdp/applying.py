"""Shard a model over the processes of torch.distributed by FSDP2: each layer by itself, and the rest."""

import torch
from torch import Tensor, distributed, nn

from ...core.errors import HybridOptError
from ..placement.units import repeated
from ..quantization.owners import logical_shape, owner
from .sharded_tensors import coded
from .state import cuts_numbers

__all__ = ["shard_"]


def shard_(model: nn.Module) -> None:
    """Call `fully_shard` on each repeated layer of a model, and on the model, in place.

    Each process keeps its rows of every parameter, on its GPU if there is one; a model on the host gets there layer
    by layer, so that no GPU ever has to hold all of it. Quantized weights whose codes cannot be cut stay whole on
    every rank.

    model: with its adapters, if any, and the same on all processes.

    Raises:
        HybridOptError: before anything is sharded: codes that are trained would be cut within a group, or the trained
            parameters that would be gathered together have several dtypes.
    """
    from torch.distributed.fsdp import fully_shard

    units = [model.get_submodule(name) for name in repeated(model, least=1)]
    ranks = distributed.get_world_size()
    _check_codes(model, ranks)
    _check_dtypes(model, units)
    whole = {p for p in model.parameters() if not (p.is_floating_point() or _is_cut(p, ranks))}
    for unit in (*units, model):
        fully_shard(unit, ignored_params=whole or None)


def _is_cut(p: Tensor, ranks: int) -> bool:
    """Return whether the codes of a quantized weight may be cut between ranks."""
    scheme = owner(p)
    return scheme is not None and scheme.cuts(logical_shape(p), ranks) and (scheme.trains or cuts_numbers())


def _check_codes(model: nn.Module, ranks: int) -> None:
    for name, p in model.named_parameters():
        if coded(p) is not None and not _is_cut(p, ranks):
            raise HybridOptError(
                f"{name!r} (shape {tuple(p.shape)}) is kept as codes that are trained, a group of which would lie on "
                f"two of {ranks} processes: take another number of them, parallel: ddp, or no quantization"
            )


def _check_dtypes(model: nn.Module, units: list[nn.Module]) -> None:
    """Raise HybridOptError where FSDP2 would, in the first pass, for dtypes that it cannot reduce together."""
    inside = {p for unit in units for p in unit.parameters()}
    outside = [(name, p) for name, p in model.named_parameters() if p not in inside]
    for found in (outside, *(list(unit.named_parameters()) for unit in units)):
        trained = {p.dtype: name for name, p in found if _is_trained(p)}
        if len(trained) > 1:
            told = ", ".join(f"{name!r} is {str(dtype).removeprefix('torch.')}" for dtype, name in trained.items())
            raise HybridOptError(
                f"parallel: fsdp adds up gradients of one dtype, and {told}: load the model in one dtype "
                "(train.dtype: fp32), or take parallel: ddp"
            )


def _is_trained(p: Tensor) -> bool:
    return p.requires_grad and p.dtype in (torch.float32, torch.bfloat16, torch.float16)
