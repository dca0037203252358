"""When gradients are used and freed: one release a file, found by name; `core.contracts.Release` is the contract."""

from ...core.contracts import Release
from ...core.registry import find

__all__ = ["DEFAULT", "release_class"]

DEFAULT = "accumulate"  # for optimizers that are not told otherwise


def release_class(name: str | None) -> type[Release]:
    """Return the class of the release `name`, None: of the default one; HybridOptError lists the known names."""
    return find("releases", DEFAULT if name is None else name)
