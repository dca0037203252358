"""Base tensors that adapters have changed, or stand for."""

from torch import nn

from ..core.registry import every
from .roles import base_name

__all__ = ["altered", "replaced"]


def altered(model: nn.Module) -> set[str]:
    """Return the base names of the parameters that putting adapters on `model` has changed."""
    return {base_name(name) for library in every("adapters") for name in library.altered(model)}


def replaced(model: nn.Module) -> set[str]:
    """Return the base names of the tensors that `model` does not compute with, whichever adapter is switched on.

    Copies that are trained as a whole stand for them. What is tied to another layer still takes part there.
    """
    inside = {id(module) for library in every("adapters") for module in library.replaced(model)}
    paths = tuple(f"{n}." for n, m in model.named_modules(remove_duplicate=False) if id(m) in inside)
    names: dict[int, list[str]] = {}
    for name, x in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        names.setdefault(id(x), []).append(name)
    return {base_name(ties[0]) for ties in names.values() if all(name.startswith(paths) for name in ties)}
