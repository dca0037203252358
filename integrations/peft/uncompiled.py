"""Configurations of adapters that were put on a compiled model."""

import copy
from typing import Any

from hybridopt.model.containers import plain_name

__all__ = ["uncompiled_config"]


def uncompiled_config(config: Any) -> Any:
    """Return a configuration whose names of modules are those of a model on which torch.compile was not called."""
    found = copy.copy(config)
    for key, value in vars(config).items():
        if isinstance(value, str):
            setattr(found, key, plain_name(value))
        elif isinstance(value, list | set | tuple):
            setattr(found, key, type(value)(plain_name(x) if isinstance(x, str) else x for x in value))
        elif isinstance(value, dict):
            setattr(found, key, {plain_name(k) if isinstance(k, str) else k: v for k, v in value.items()})
    return found
