"""By how much LoRA counts: what its configuration says, as files keep nothing else."""

import math
from typing import Any

from hybridopt.core.errors import HybridOptError

__all__ = ["check_scaling"]


def check_scaling(model: Any) -> None:
    """Raise HybridOptError where a LoRA counts more or less than alpha and rank say, as after `scale_layer(...)`.

    Args:
        model: with adapters of PEFT on it.
    """
    from peft.tuners.lora import LoraLayer

    usual = {name: config for name, config in model.peft_config.items() if config.peft_type.value == "LORA"}
    layers: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    for where, layer in layers:
        for name in usual.keys() & layer.scaling.keys():
            now, rank = layer.scaling[name], layer.r[name]
            told = layer.lora_alpha[name] / (math.sqrt(rank) if usual[name].use_rslora else rank)
            if not math.isclose(now, told, rel_tol=1e-6):
                raise HybridOptError(
                    f"the adapter {name!r} of {where!r} counts {now:g} times, and its lora_alpha and r say "
                    f"{told:g}, which is what it would come back with; call unscale_layer() on its layers before "
                    "saving, or train with another lora_alpha"
                )
