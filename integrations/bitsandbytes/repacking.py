"""4-bit weights on CPUs, kept from being repacked for inference."""

from torch import nn

from hybridopt.core.errors import HybridOptError

__all__ = ["forbid_repacking_"]

SWITCH = "support_avx512bf16_for_cpu"  # bitsandbytes' name for it


def forbid_repacking_(model: nn.Module) -> None:
    """Keep evaluation from repacking 4-bit weights on CPUs with AVX512-BF16, in models of whatever origin.

    bitsandbytes repacks a layer's weight for inference in its first evaluation, after which gradients silently stop
    there and its scales are rounded for good. Raises HybridOptError, changing nothing, if that has already happened.
    """
    layers = [(name, module) for name, module in model.named_modules() if hasattr(module, SWITCH)]
    spoiled = [n for n, m in layers if hasattr(getattr(m.weight, "quant_state", None), "packing_format_for_cpu")]
    if spoiled:
        raise HybridOptError(
            f"{spoiled[0]} ({len(spoiled)} of {len(layers)} 4-bit layers): an evaluation on the CPU has repacked the "
            "weight for inference, which stops gradients and cannot be undone exactly. Load the model again and wrap "
            "it before the first forward pass in evaluation mode (from_pretrained returns models in that mode)"
        )
    for _, layer in layers:
        setattr(layer, SWITCH, False)
