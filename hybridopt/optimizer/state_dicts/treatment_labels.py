"""Treatments as param groups say them, in text: those of older versions, and in what two of them differ."""

import json
from typing import Any

from ...policy import compatibility

__all__ = ["completed", "difference"]


def completed(label: Any) -> Any:
    """Return a label of an older version as it would be written now; anything else as it is."""
    if not isinstance(label, str):
        return label
    try:
        data = json.loads(label.rstrip("'"))
        now = compatibility.completed(data)
    except (ValueError, RecursionError):
        return label
    return label if now == data else json.dumps(now) + "'" * (len(label) - len(label.rstrip("'")))


def difference(saved: str, live: str) -> str:
    """Return the options in which two labels differ, such as "split.solver 'exact', now 'subspace'"; "" if unknown."""
    try:
        one, other = (_flat(json.loads(label.rstrip("'"))) for label in (saved, live))
    except (ValueError, RecursionError):
        return ""
    odd = [key for key in one | other if one.get(key) != other.get(key)]
    return "; ".join(f"{key} {one.get(key)!r}, now {other.get(key)!r}" for key in odd)


def _flat(data: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {above: data}
    return {k: v for key, value in data.items() for k, v in _flat(value, f"{above}.{key}".lstrip(".")).items()}
