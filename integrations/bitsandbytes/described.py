"""What config.json says of quantized layers, so that what transformers' `save_pretrained` writes loads again."""

import copy
import functools
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from hybridopt.core.contracts import PackedWeight
from hybridopt.core.errors import HybridOptError
from hybridopt.model.quantization.layers import is_linear

__all__ = ["describe_", "refuse_packed_"]


def describe_(model: nn.Module, holds: Callable[[nn.Module], bool], told: dict[str, Any]) -> None:
    """Give every transformers model within `model` a configuration that says how its layers are quantized.

    The configurations become copies, as others may be using the originals. A model whose configuration cannot say it
    refuses to be saved by transformers.

    Args:
        model: any, with quantized layers.
        holds: whether a layer is one of these.
        told: of the layers, as transformers' BitsAndBytesConfig takes it.
    """
    library: Any = sys.modules.get("transformers")
    if library is None:
        return
    models = [m for m in model.modules() if isinstance(m, library.PreTrainedModel) and any(map(holds, m.modules()))]
    _copy_configs_(model, models)
    for each in models:
        sharing = [m for m in models if m.config is each.config]
        quantized = _names(sharing, holds)
        left = [_exactly(name, quantized) for name in _names(sharing, is_linear)]
        each.config.quantization_config = library.BitsAndBytesConfig(**told, llm_int8_skip_modules=left)
        kept = [*left, *(getattr(each, "_keep_in_fp32_modules", None) or ())]
        if lost := next((name for name in quantized if not _converts(name, kept)), None):
            vars(each)["save_pretrained"] = functools.partial(_refuse, type(each).__name__, lost)


def refuse_packed_(model: nn.Module) -> None:
    """Let transformers models within `model` refuse to write weights that transformers could not read as codes."""
    library: Any = sys.modules.get("transformers")
    for each in () if library is None else [m for m in model.modules() if isinstance(m, library.PreTrainedModel)]:
        packed = (name for name, p in each.named_parameters() if isinstance(p, PackedWeight))
        if name := next(packed, None):
            vars(each)["save_pretrained"] = functools.partial(_refuse_packed, type(each).__name__, name)


def _copy_configs_(model: nn.Module, models: Iterable[Any]) -> None:
    """Give some models copies of their configurations, and their modules those that they shared with them."""
    known: dict[int, Any] = {}
    for each in models:
        if not any(each.config is made for made in known.values()):
            copy.deepcopy(each.config, known)
        for module in each.modules():
            own = vars(module).get("config")
            if id(own) in known and type(known[id(own)]) is type(own):
                module.config = known[id(own)]


def _names(models: Iterable[nn.Module], wanted: Callable[[nn.Module], bool]) -> list[str]:
    """Return the names, in any of the models, of all modules that are wanted; each once."""
    return list(dict.fromkeys(name for model in models for name, m in model.named_modules() if name and wanted(m)))


def _exactly(name: str, quantized: Iterable[str]) -> str:
    """Return what transformers takes for the name of a layer, and for that of none of the quantized ones."""
    return name if all(_converts(other, [name]) for other in quantized) else f"{re.escape(name)}$"


def _converts(name: str, left: list[str]) -> bool:
    """Return whether transformers quantizes a linear layer of this name where others are left out."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    return should_convert_module(name, left)


def _refuse(kind: str, layer: str, *_: object, **__: object) -> None:
    raise HybridOptError(
        f"{kind}.save_pretrained: {layer!r} is quantized, and transformers would load it in full precision because of "
        "its name; take model.hybrid.save_pretrained, or leave quantization out"
    )


def _refuse_packed(kind: str, name: str, *_: object, **__: object) -> None:
    raise HybridOptError(
        f"{kind}.save_pretrained: {name!r} is quantized, and transformers keeps such weights in full precision alone; "
        "take model.hybrid.save_pretrained, or leave quantization out"
    )
