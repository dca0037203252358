"""Whether a model has the layers that new adapters name: PEFT is silent where only some of them are absent."""

import re
from typing import Any

from torch import nn

from hybridopt.core.errors import HybridOptError, nearest

from . import patterns

__all__ = ["absent", "check_targets", "ends"]

ENDS = "names are whole, or the ends of names after a dot"
LISTED = 12  # names that an error shows


def absent(model: nn.Module, config: Any) -> str | None:
    """Return a sentence on names, or a pattern, that no module of a model has, with the near name; None without any.

    Args:
        model: without adapters.
        config: of PEFT, for new adapters.

    Raises:
        HybridOptError: a text is no pattern.
    """
    names = _names(model)
    missing = _missing(names, config)
    if not missing:
        return None
    cure = _cure(missing[0], names) if isinstance(config.target_modules, str) else ENDS
    return _sentence(missing, model, cure)


def check_targets(model: nn.Module, config: Any) -> list[str]:
    """Return the names that no module of a model has, where some have others; HybridOptError where none has any.

    Args:
        model: without adapters.
        config: of PEFT, for new adapters.
    """
    missing = _missing(_names(model), config)
    if missing and (isinstance(config.target_modules, str) or len(missing) == len(config.target_modules)):
        raise HybridOptError(absent(model, config) or "")
    return missing


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules() if name]


def _missing(names: list[str], config: Any) -> list[str]:
    """Return what is named and not there."""
    given = getattr(config, "target_modules", None)
    if not given or given in (patterns.ALL, patterns.NONE) or getattr(config, "layer_replication", None):
        return []
    if isinstance(given, str):
        return [] if any(map(_pattern(given).fullmatch, names)) else [given]
    there = {end for name in names for end in ends(name)}
    return sorted(str(each) for each in given if each not in there)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise HybridOptError(
            f"target_modules={text!r} is no regular expression, as which PEFT reads a single text ({error}); give a "
            f"list of names, or {patterns.ALL!r}"
        ) from error


def _cure(text: str, names: list[str]) -> str:
    """Return what to write for a single text, which PEFT takes for a pattern of whole names."""
    said = "a single text is a pattern of whole names"
    parts = [part.strip() for part in text.split(",")]
    if all(any(part in ends(name) for name in names) for part in parts):
        return f"{said}; write a list: [{', '.join(parts)}]"
    return f"{said}, a list is of names or of their ends"


def _sentence(missing: list[str], model: nn.Module, cure: str) -> str:
    layers = sorted({ends(name)[0] for name, module in model.named_modules() if name and _has_weight(module)})
    wanted = [part.strip().rpartition(".")[2] for part in missing[0].split(",")]
    near = next((found for each in wanted if each not in layers and (found := nearest(each, layers))), None)
    meant = f"did you mean {near!r}? " if near else ""
    listed = ", ".join([*layers[:LISTED], *(["..."] if len(layers) > LISTED else [])]) or "none"
    return (
        f"{type(model).__name__} has no module {' and none '.join(map(repr, missing))}; {meant}{cure}. "
        f"Its layers: {listed}; or {patterns.ALL!r}, all linear ones but the output layer"
    )


def _has_weight(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() > 1


def ends(name: str) -> list[str]:
    """Return the ends of a dotted name, the shortest first, the whole last."""
    parts = name.split(".")
    return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
