"""Parts as older versions wrote them: with the options that they have got since, at what was done before."""

from typing import Any

__all__ = ["completed"]

ADDED: dict[str, dict[str, Any]] = {
    "splits.svd": {"solver": "exact", "spread": False},
    "splits.random": {"spread": False},
    "policies.galore": {"solver": "exact", "spread": False},
    "policies.qgalore": {"solver": "exact", "spread": False},
}


def completed(data: Any) -> Any:
    """Return plain data of parts, as `pack` has once written it, as it would write them now."""
    if isinstance(data, list):
        return [completed(value) for value in data]
    if not isinstance(data, dict):
        return data
    more = ADDED.get(data["part"], {}) if isinstance(data.get("part"), str) else {}
    return {key: completed(value) for key, value in data.items()} | {k: v for k, v in more.items() if k not in data}
