"""Plan a model that is loaded and wrapped: copies of its own modules are run on fake tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import HybridOptError
from ..model.adapters import lora_rank
from ..model.fsdp.sharded_tensors import check_plain
from ..model.placement.placed import placed
from ..model.unquantized import unquantized
from .costs import Costs, Known
from .estimate import Estimate, estimate_of
from .estimator import freeze_
from .request import Request, short_name
from .subject.inputs import inputs, usual_length
from .subject.model import layers
from .trace.fake_models import copied
from .trace.simulate import Trace, simulate

__all__ = ["plan_live"]


def plan_live(model: nn.Module, batch: Mapping[str, Tensor] | None = None, **how: Any) -> Estimate:
    """Estimate the bytes that a training step of a wrapped model takes, on the device where it is.

    Args:
        model: as `hybridopt.wrap` returned it; it must return an object with `loss`.
        batch: what the model is called with, by name; only shapes and dtypes count. None: input_ids and labels of
            seq_len (2048, or as many as there are positions for) tokens in each of batch_size (1) sequences.
        **how: seq_len, batch_size, and release, micro_batches, gpus and parallel as of a `Request`.

    Raises:
        HybridOptError: the model is not wrapped, is sharded already, or does not run on such a batch.
    """
    strategy = model.__dict__.get("hybrid")
    if strategy is None:
        raise HybridOptError(f"{type(model).__name__} is not wrapped; call hybridopt.wrap(model, ...) first")
    check_plain(model, "a rank has a part of it; plan it before fully_shard, with gpus=... for that many ranks")
    request = _request(model, strategy, batch, how)
    costs = Known(model).costs(strategy.resolved(), request)
    told = inputs(model, request.batch, request.seq_len) if batch is None else batch
    traces = [_trace(model, costs, told, backward, request.device) for backward in costs.passes]
    return estimate_of(type(model).__name__, request, costs, traces, unquantized(model))


def _trace(model: nn.Module, costs: Costs, told: Mapping[str, Tensor], backward: bool, device: str) -> Trace:
    copy = copied(model).train()
    freeze_(copy, costs.plan)
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", 0)
    shifted = None if backward else costs.updates.drawing.alone
    return simulate(copy, told, layers(copy, depth) if depth else None, shifted, device)


def _request(model: nn.Module, strategy: Any, batch: Mapping[str, Tensor] | None, how: dict[str, Any]) -> Request:
    sizes = {"batch": how.pop("batch_size", 1), "seq_len": how.pop("seq_len", usual_length(model))}
    unknown = sorted(how.keys() - {"release", "micro_batches", "gpus", "parallel"})
    if unknown:
        raise HybridOptError(
            f"plan: {unknown} are not known; give release, micro_batches, seq_len, batch_size, gpus or parallel"
        )
    if batch is not None:
        if not batch or not all(isinstance(x, Tensor) for x in batch.values()):
            raise HybridOptError(
                f"plan: batch={dict(batch)!r:.80} is not allowed; give tensors by name, as to the model"
            )
        shape = max((x.shape for x in batch.values()), key=len)
        sizes = {"batch": shape[0], "seq_len": shape[1] if len(shape) > 1 else 1}
    first = next(p for p in model.parameters() if p.is_floating_point())
    where: dict[str, Any] = {"device": "cuda" if first.is_cuda else "cpu", "dtype": short_name(first.dtype) or "fp32"}
    again = any(vars(module).get("gradient_checkpointing") for module in model.modules())  # as transformers notes it
    where["checkpointing"] = again
    rests = placed(model)
    if rests is not None:
        rests.rest()  # then every tensor has memory of its own
        where |= {"device": "cpu" if rests.device.type == "cpu" else "cuda", "placement": rests.placement}
    kept = {"lora": lora_rank(model), "quantization": strategy.quantization, "seed": strategy.seed}
    kept["activations"] = strategy.activations
    return Request(policy=strategy.policy, **sizes, **where, **kept, **how)
