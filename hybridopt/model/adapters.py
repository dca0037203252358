"""Adapters on a model, whatever library they are of."""

from collections.abc import Mapping

import torch
from torch import nn

from ..core.contracts import Adapters
from ..core.dtypes import dtype_name
from ..core.errors import HybridOptError
from ..core.registry import every, make
from .containers import contained

__all__ = ["adapted_layers", "adapter_members", "adapter_names", "bare", "bare_name", "check_attached"]
__all__ += ["dtype_of_adapters", "library_for", "library_of", "lora_rank", "original_name", "usual_library"]
__all__ += ["whole_copies", "without_wrappers"]

USUAL = "peft"  # the library of LoRA that is asked for by its rank alone


def usual_library() -> Adapters:
    """Return the library of adapters that are asked for by their rank alone."""
    return make("adapters", USUAL)


def library_for(config: object) -> Adapters:
    """Return the library that takes this configuration; where none does, the usual one, which refuses it."""
    return next((library for library in every("adapters") if library.takes(config)), None) or usual_library()


def library_of(model: nn.Module) -> Adapters | None:
    """Return the library that has put adapters on `model`; None where `model` is no library's."""
    return next((library for library in every("adapters") if library.owns(model)), None)


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of all adapters on a model, and of the layers of adapters that are no library's."""
    library = library_of(model)
    return adapted_layers(model) if library is None else library.names(model)


def check_attached(model: nn.Module) -> None:
    """Raise HybridOptError if adapters lie on a model that could not be saved and loaded again; change nothing."""
    library = library_of(model)
    if library is not None and library.names(model):
        library.check_attached(model)
    elif library is None and bare(model) is model and (names := adapted_layers(model)):
        raise HybridOptError(
            f"{names[0]!r} has an adapter, but {type(model).__name__} is no model with adapters itself, and the "
            "adapters could not be saved with it; wrap the part of it that was given them, or train the parts by "
            "hybridopt.HybridOptimizer and save each by its own library"
        )


def dtype_of_adapters(owner: str, given: str | torch.dtype | None, has_adapters: bool = True) -> torch.dtype | None:
    """Return the dtype that is asked for by its name or itself; None: whatever the library of the adapters makes.

    Args:
        owner: what it was given to, for errors.
        given: "float32", "bfloat16", "float16", short as "bf16", the same as a torch.dtype, or None.
        has_adapters: are there adapters to be kept in it?

    Raises:
        HybridOptError: for anything else, and where there are no adapters.
    """
    if given is None:
        return None
    name = dtype_name(owner, "adapter_dtype", given)
    if not has_adapters:
        raise HybridOptError(
            f"{owner}: adapter_dtype={name!r} is for adapters that are added, and there are none; ask for them, too"
        )
    return getattr(torch, name)


def bare(model: nn.Module) -> nn.Module:
    """Return the base model beneath adapters and containers; a model without any is its own base."""
    for library in every("adapters"):
        model = contained(library.base(contained(model)))
    return model


def bare_name(name: str) -> str:
    """Return the name that a parameter of the base had before adapters were put on it; other names stay."""
    for library in every("adapters"):
        name = library.base_name(name)
    return name


def original_name(name: str) -> str:
    """Return the name of what a copy, trained as a whole beside adapters, stands for; other names stay."""
    for library in every("adapters"):
        name = library.original_name(name)
    return name


def without_wrappers(path: list[str]) -> list[str]:
    """Return the path of the layer that stood where a module of the base lies now, out of what was put around it.

    Of a copy that is trained as a whole it is the path of the layer that has the copies.
    """
    inner = {name for library in every("adapters") for name in library.wrapped}
    while path and (path[-1] in inner or path[-1].startswith("_")):
        path = path[:-1]
    name = ".".join(path)
    original = original_name(name)
    return original.split(".") if name.startswith(f"{original}.") else path


def adapted_layers(model: nn.Module) -> list[str]:
    """Return the names of the modules that adapters were put on, though `model` itself be no library's."""
    return [n for n, m in model.named_modules() if any(library.adapts(m) for library in every("adapters"))]


def adapter_members(modules: Mapping[str, nn.Module]) -> dict[str, set[str]]:
    """Return, by the name of each module that has any, the names of its members that are adapters."""
    libraries = list(every("adapters"))
    found = {n: {x for library in libraries for x in library.members(m)} for n, m in modules.items()}
    return {name: members for name, members in found.items() if members}


def whole_copies(layer: nn.Module) -> list[nn.Module]:
    """Return a layer with all its copies that adapters train as a whole; the layer alone if it has none."""
    return next((copies for library in every("adapters") if (copies := library.copies(layer))), [layer])


def lora_rank(model: nn.Module) -> int | None:
    """Return the rank of the adapter that `wrap` has put on a model; None for models and adapters without."""
    found = ((library, library.own_config(model)) for library in every("adapters"))
    return next((library.rank(config) for library, config in found if config is not None), None)
