"""What a model tells of the parameters that an optimizer is given."""

from torch import nn

from ..model.containers import contained
from ..model.roles import Param, clean, params

__all__ = ["in_model"]


def in_model(module: nn.Module | None) -> tuple[dict[str, Param], dict[int, str]]:
    """Return what is known of parameters by name, and their names by identity; nothing without a model."""
    if module is None:
        return {}, {}
    module = contained(module)
    return {p.name: p for p in params(module)}, {id(p): clean(n) for n, p in module.named_parameters()}
