"""Where PEFT's modules lie in a model, asked of PEFT's own classes."""

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = [
    "adapts",
    "base_of",
    "copies",
    "inner",
    "is_injected",
    "is_merged",
    "is_off",
    "is_taken_off",
    "layers",
    "members",
    "owns",
    "tensors",
]


def owns(model: nn.Module) -> bool:
    """Return whether `model` is a PeftModel, or has adapters that were injected into it (`is_injected`)."""
    library = sys.modules.get("peft")
    return library is not None and (isinstance(model, library.PeftModel) or is_injected(model))


def is_injected(model: nn.Module) -> bool:
    """Return whether PEFT's layers lie in `model` itself, with their configurations, as `add_adapter` leaves them.

    This is the way of transformers' and diffusers' `add_adapter` and of PEFT's `inject_adapter_in_model`; it is also
    what the model within a PeftModel looks like from inside.
    """
    return isinstance(vars(model).get("peft_config"), dict) and bool(layers(model))


def is_taken_off(model: Any) -> bool:
    """Return whether the adapters of a PeftModel were taken off, as by merging them, and no layer is left."""
    tuner = sys.modules["peft"].tuners.tuners_utils.BaseTuner
    return not is_injected(model) and isinstance(model.base_model, tuner) and not layers(model)


def base_of(model: Any) -> nn.Module:
    """Return the model that the adapters of a model lie in."""
    return model if is_injected(model) else model.get_base_model()


def layers(model: nn.Module) -> list[Any]:
    """Return every module of a model that switches adapters: tuner layers, and those that are trained as a whole."""
    return [module for module in model.modules() if adapts(module)]


def members(layer: nn.Module) -> tuple[str, ...]:
    """Return what a module of PEFT has of its own: every member but the one that it has put itself around.

    The copies of a module that is trained as a whole are what they are copies of, so they do not count.
    """
    library = sys.modules.get("peft")
    if library is None:
        return ()
    tuners = library.tuners.tuners_utils
    kinds = (tuners.BaseTunerLayer, "base_layer"), (tuners.BaseTuner, "model"), (library.PeftModel, "base_model")
    inner = next((inner for kind, inner in kinds if isinstance(layer, kind)), None)
    if inner is None:
        return ()
    own = (*layer._modules, *layer._parameters, *layer._buffers)
    return tuple(name for name in own if name != inner)


def adapts(layer: nn.Module) -> bool:
    """Return whether `layer` is one of PEFT's tuner layers or wrappers."""
    library = sys.modules.get("peft")
    if library is None:
        return False
    return isinstance(layer, library.tuners.tuners_utils.BaseTunerLayer | library.utils.other.AuxiliaryTrainingWrapper)


def copies(layer: Any) -> list[nn.Module]:
    """Return the module beneath a ModulesToSaveWrapper and its copies, one for each adapter."""
    if "modules_to_save" not in layer._modules:
        return []
    return [layer.original_module, *layer.modules_to_save.values()]


def is_merged(layer: nn.Module) -> bool:
    """Return whether a tuner layer is merged."""
    return getattr(layer, "merged", False) is True


def inner(module: Any) -> nn.Module:
    """Return the module of the base that lies within one of PEFT's; other modules are their own."""
    while adapts(module):
        module = module.original_module if hasattr(type(module), "adapter_state_dict") else module.base_layer
    return module


def is_off(layer: Any) -> bool:
    """Return whether the adapters of one of PEFT's layers are switched off, as by `disable_adapter`."""
    return adapts(layer) and layer.disable_adapters


def tensors(adapted: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter and buffer that adapters have of their own, some of them several times."""
    for module in adapted.modules():
        for name in members(module):
            own = getattr(module, name)
            if isinstance(own, nn.Module):
                yield from (*own.parameters(), *own.buffers())
            elif own is not None:
                yield own
