"""adapter_config.json with names in place of patterns, so that nobody needs a pattern to read it."""

import json
from pathlib import Path
from typing import Any

from . import patterns, tree
from .patterns import ALL, BY_NAME, CHOSEN

__all__ = ["write"]


def write(model: Any, adapter: str, path: Path) -> None:
    """Write names in place of the patterns in a configuration that PEFT has written, as they fit this model.

    Args:
        model: the PeftModel.
        adapter: whose configuration it is.
        path: of the file.
    """
    data = json.loads(path.read_text())
    names = _targeted(model, adapter)
    if data.get("target_parameters") or not names:
        return
    plain = dict(data)
    by_pattern = any(isinstance(data.get(key), str) for key in CHOSEN) and data["target_modules"] != ALL
    if by_pattern and not _reaches_more(model, names):
        plain |= {"target_modules": sorted(names), "exclude_modules": None}
        plain |= {key: None for key in ("layers_pattern", "layers_to_transform") if key in data}
    for key in BY_NAME:
        if any(not patterns.plain(name) for name in data.get(key) or ()):
            plain[key] = patterns.resolved(data[key], names)
    if plain != data:
        path.write_text(json.dumps(plain, indent=2, sort_keys=True))


def _targeted(model: Any, adapter: str) -> list[str]:
    """Return the names, in the base model, of the layers that an adapter was put on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = ((n, m) for n, m in tree.base_of(model).named_modules() if isinstance(m, BaseTunerLayer))
    return [name for name, layer in layers if _has(layer, adapter) and ".token_adapter" not in f".{name}"]


def _has(layer: Any, adapter: str) -> bool:
    return any(adapter in getattr(layer, kind) for kind in layer.adapter_layer_names if hasattr(layer, kind))


def _reaches_more(model: Any, names: list[str]) -> bool:
    """Return whether a module is called as one of these names ends, so that PEFT would take it, too."""
    others = {name for name, _ in tree.base_of(model).named_modules()} - set(names)
    return any(other.endswith(f".{name}") for other in others for name in names)
