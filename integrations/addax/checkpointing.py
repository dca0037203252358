"""Gradient checkpointing of transformers' models, on or off for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["checkpointing", "set_checkpointing"]


def checkpointing(model: nn.Module) -> list[nn.Module]:
    """Return the modules that have gradient checkpointing on."""
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]


@contextmanager
def set_checkpointing(model: nn.Module, on: bool) -> Iterator[None]:
    """Turn gradient checkpointing on or off within; afterwards it is as before."""
    was = checkpointing(model)
    if on and not was:
        _switch(model, "enable")
    _mark([] if on else was, False)
    try:
        yield
    finally:
        if on and not was:
            _switch(model, "disable")
        _mark(was, True)


def _mark(modules: list[nn.Module], on: bool) -> None:
    for module in modules:
        module.gradient_checkpointing = on  # type: ignore[assignment]  # nn.Module declares only tensors and modules


def _switch(model: nn.Module, what: str) -> None:
    """Call the method that turns gradient checkpointing on or off; `what` is "enable" or "disable".

    transformers has renamed it, and warns of the older name, so the newer one is tried first.
    """
    names = (f"activation_checkpointing_{what}", f"gradient_checkpointing_{what}")
    next(getattr(model, name) for name in names if hasattr(model, name))()
