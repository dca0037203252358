"""Whether a model can be made of its settings at all: sizes first, then what its own configuration says of them."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from ...core.errors import HybridOptError

__all__ = ["check_settings"]

LAYERS = 1024  # repeated layers, of any kind
# What transformers' configurations of all models share, by the names that they agree on, and the least and most of it.
COMMON = {
    "num_hidden_layers": (1, LAYERS),
    "hidden_size": (1, 2**20),
    "intermediate_size": (1, 2**24),
    "num_attention_heads": (1, 2**14),
    "num_key_value_heads": (1, 2**14),
    "head_dim": (1, 2**16),
    "vocab_size": (1, 2**28),
    "max_position_embeddings": (1, 2**31),
}
# Other whole numbers whose names say what they count.
OTHERS = (
    (re.compile(r"(^|_)layers$"), (0, LAYERS)),
    (re.compile(r"experts"), (0, 2**16)),
    (re.compile(r"(_size|_dim|_rank|_heads)$"), (0, 2**28)),
)
SHARES = ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok")
NOT_SIZES = ("_token_id", "_index")


def check_settings(model: str, settings: Mapping[str, Any]) -> None:
    """Raise HybridOptError for settings of which no model can be made, naming the key, its value and what is allowed.

    Args:
        model: its name, for the error.
        settings: of transformers' configuration, "model_type" among them; those of its parts are checked, too.
    """
    _check_kind(model, settings)
    for part in _parts(settings):
        kind, usual = _kind(part)
        own = {spelled: limits for name, limits in COMMON.items() for spelled in (name, _own(kind, name))}
        for key, value in part.items():
            limits = own.get(key) or next((limits for name, limits in OTHERS if name.search(key)), None)
            if limits is not None and not key.endswith(NOT_SIZES) and value != usual.get(key):
                _check_size(model, key, value, *limits, typed=key in own)
        whole = {_own(kind, name): value for name, value in {**usual, **part}.items()}
        _check_shares(model, {name: whole.get(_own(kind, name)) for name in (*COMMON, *SHARES)})


def _parts(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the settings, and those of the parts of a model that reads more than text."""
    from transformers import CONFIG_MAPPING

    yield settings
    for value in settings.values():
        if isinstance(value, Mapping) and value.get("model_type") in CONFIG_MAPPING:
            yield from _parts(value)


def _kind(settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class of a configuration, and the settings that it has by default."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[settings["model_type"]]
    try:
        return kind, vars(kind())
    except Exception:  # some have parts without which they are nothing
        return kind, {}


def _check_kind(model: str, settings: Mapping[str, Any]) -> None:
    from transformers import CONFIG_MAPPING, __version__

    name = settings.get("model_type")
    if name not in CONFIG_MAPPING:
        near = get_close_matches(str(name), list(CONFIG_MAPPING), 3)
        hint = f"the closest are {', '.join(near)}" if near else "code that comes with a model is not run here"
        raise HybridOptError(
            f"model={model!r}: model_type={name!r} is not known to transformers {__version__}: {hint}; load the "
            "model, wrap it, and ask model.hybrid.memory()"
        )


def _check_size(model: str, key: str, value: object, low: int, high: int, typed: bool) -> None:
    if not isinstance(value, int | float | str | bool) or (isinstance(value, bool | str | float) and not typed):
        return  # None, a list by layer, or a setting of another kind with such a name
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:  # type: ignore[operator]  # a whole number
        raise HybridOptError(
            f"model={model!r}: {key}={value!r} is not allowed; give a whole number from {low} to {high}"
        )


def _own(kind: Any, name: str) -> str:
    """Return what a kind of configuration calls a setting that is known to all by `name`."""
    return kind.attribute_map.get(name, name)


def _check_shares(model: str, whole: Mapping[str, Any]) -> None:
    """Raise HybridOptError for heads that cannot share the keys, and more experts for a token than there are."""
    heads, keys = whole["num_attention_heads"], whole["num_key_value_heads"]
    if isinstance(heads, int) and isinstance(keys, int) and heads % keys:
        raise HybridOptError(
            f"model={model!r}: num_key_value_heads={keys} is not allowed; give a divisor of "
            f"num_attention_heads={heads}"
        )
    *counts, chosen = (whole[name] for name in SHARES)
    count = next((x for x in counts if isinstance(x, int)), None)
    if count and isinstance(chosen, int) and chosen > count:
        raise HybridOptError(
            f"model={model!r}: num_experts_per_tok={chosen} is not allowed; give at most the {count} experts there are"
        )
