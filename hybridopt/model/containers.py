"""What is put around a model or its layers without changing them: `torch.compile`, and copies on several devices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..core.errors import HybridOptError

__all__ = [
    "REPLICAS",
    "as_given",
    "check_container",
    "compiled_in_place",
    "contained",
    "original",
    "plain_name",
    "uncompiled",
]

COMPILED = "_orig_mod"  # what torch.compile calls the module that it has put itself around, as a member of itself
REPLICAS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def original(module: Any) -> Any:
    """Return the module that `torch.compile` was put around, however often; any other is its own original."""
    while COMPILED in module._modules:
        module = module._modules[COMPILED]
    return module


def plain_name(name: str) -> str:
    """Return the name that a module or parameter has in a model on which `torch.compile` was not called."""
    return name.replace(f"{COMPILED}.", "")


def contained(model: Any) -> Any:
    """Return the model itself, out of what `torch.compile`, DataParallel and DistributedDataParallel put around it."""
    while (inner := model.module if isinstance(model, REPLICAS) else original(model)) is not model:
        model = inner
    return model


def check_container(model: nn.Module, changes: bool) -> None:
    """Raise HybridOptError for changes of a model in a container that goes on with the parameters it has held.

    Args:
        model: in any container, or none.
        changes: are parameters going to be put in the places of others?
    """
    outer = original(model)
    if changes and isinstance(outer, REPLICAS):
        kind = type(outer).__name__
        raise HybridOptError(
            f"{kind} holds the parameters that it was made with, and quantization and adapters put others in their "
            f"places; give the model itself, and then put {kind} around what is returned (but for placement, which is "
            "for one device)"
        )


def compiled_in_place(module: nn.Module) -> bool:
    """Return whether `module.compile()` was called, so that its calls, and those alone, run compiled code."""
    return module._compiled_call_impl is not None


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[nn.Module]:
    """Take everything off that `torch.compile` was put around within a model, and yield the model itself.

    Modules then lie, and are called, as in a model that was never compiled. On leaving, all is as before, and what was
    put in the place of a compiled module meanwhile is compiled in place.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        if COMPILED not in parent._modules
        for name, child in parent._modules.items()
        if child is not None and original(child) is not child
    ]
    for parent, name, child in places:
        parent._modules[name] = original(child)
    try:
        yield contained(model)
    finally:
        for parent, name, child in places:
            parent._modules[name] = _compiled_as(child, parent._modules.get(name))


def as_given(model: nn.Module, now: nn.Module) -> nn.Module:
    """Return `model`, or what has taken the place of the model within it, compiled the same way.

    Args:
        model: what was given.
        now: what `contained(model)` has become: itself, or, with adapters, what holds it.
    """
    return model if contained(model) is now else _compiled_as(model, now)


def _compiled_as(compiled: Any, now: Any) -> Any:
    """Return `compiled`, or another module that has taken its place, compiled in place by the same compiler."""
    inner = original(compiled)
    if inner is now:
        return compiled
    if now is not None and inner is not compiled:
        now._compiled_call_impl = compiled.dynamo_ctx(now._call_impl)
    return now
