"""4-bit weights of which FSDP2 has made shards: what hung on them comes back from their layer."""

from typing import Any

from hybridopt.model.fsdp.sharded_tensors import is_sharded

__all__ = ["tell_shard_"]


def tell_shard_(layer: Any, kind: str) -> None:
    """Tell the sharded weight of a layer what its codes stand for; any other layer stays as it is.

    Args:
        layer: any module.
        kind: of the table of 16 values: "nf4", "fp4".
    """
    weight, state = layer._parameters.get("weight"), vars(layer).get("quant_state")
    if weight is None or not is_sharded(weight) or state is None or state.quant_type != kind:
        return
    weight.quant_state, weight.quant_type, weight.compress_statistics = state, kind, state.nested
    for name, x in state.as_dict(packed=True).items():  # torch.distributed.checkpoint asks for these
        setattr(weight, name, x)
