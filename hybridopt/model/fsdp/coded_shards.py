"""Weights that are kept as codes and sharded: what a state dict holds of them, and shards made of that."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .sharded_tensors import as_cut, codes_of, gathered, is_sharded, local, share_count, span

__all__ = ["CODES", "parts_of", "shard_of"]

CODES = "codes"


def parts_of(x: Any) -> dict[str, Tensor]:
    """Return the parts of a sharded weight that is kept as codes: codes as a DTensor, constants whole on every rank.

    All ranks have to come here.
    """
    own = codes_of(x)
    given, told = own.fsdp_pre_all_gather(x.device_mesh)
    sent = dict(zip(own.parts(), given, strict=True))
    codes = sent.pop(CODES)
    room = codes.new_empty((share_count(x) * len(codes), *codes.shape[1:]), device="meta")
    came = {CODES: room} | dict(zip(sent, gathered(x, sent.values()), strict=True))
    made = own.fsdp_post_all_gather(tuple(came[name] for name in own.parts()), told, own.dtype)[0]
    return made.first_rows(len(x)).parts() | {CODES: as_cut(own.codes, x)}


def shard_of(x: Any, parts: Mapping[str, Any], values: Any = None) -> Any:
    """Return this rank's shard of a sharded weight that is kept as codes, made of what a state dict holds.

    Args:
        x: the weight, whose values are not read.
        parts: those that are there, by name; codes may be a DTensor, constants are whole.
        values: floats, whole or a DTensor, if there are any.

    Returns:
        The shard; None where that does not make up a weight.
    """
    own, (first, end) = codes_of(x), span(x)
    if not own.parts().keys() - {CODES} <= parts.keys():
        return None
    whole = {name: part for name, part in parts.items() if not is_sharded(part)}
    room = torch.empty(x.shape, dtype=own.codes.dtype, device="meta")
    rows: Any = own.of({CODES: room} | whole)[first:end] if first < end else own.zeros(0)
    mine = {name: local(part) if is_sharded(part) else rows.parts()[name] for name, part in parts.items()}
    return own.read(mine, None if values is None else local(values) if is_sharded(values) else values[first:end])
