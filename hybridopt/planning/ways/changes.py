"""What could be changed of a request that does not fit, the least harmful first."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...core.errors import HybridOptError
from ...policy.routes import read_policy
from ..request import Request
from .ways import CHANGES, SHORTEST

__all__ = ["changed"]


def changed(request: Request) -> Iterator[tuple[str, Request]]:
    """Yield each single change that can be made of a request: in words, and the changed request."""
    for text, change in CHANGES:
        found = _with(request, change)
        if found is not None:
            yield text.format(**vars(found)), found


def _with(request: Request, change: Mapping[str, Any]) -> Request | None:
    """Return the request with a change; None where there is nothing to change."""
    if "batch" in change:
        passes = request.batch * request.micro_batches
        return request.but(batch=1, micro_batches=passes) if request.batch > 1 else None
    if "seq_len" in change:
        shorter = int(request.seq_len * change["seq_len"])
        return request.but(seq_len=shorter) if shorter >= SHORTEST else None
    if "lora" in change or "quantization" in change:  # a base is quantized beneath adapters, that are there or come
        new = "lora" in change
        return request.but(**change) if (request.lora is None) == new and request.quantization is None else None
    options = {**request.options, **change}
    try:
        read_policy(request.policy, options)
    except HybridOptError:
        return None
    return request.but(options=options) if options != request.options else None
