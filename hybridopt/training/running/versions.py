"""Versions of what a run is carried out with."""

from collections.abc import Mapping

from ...core import version

__all__ = ["versions", "versions_told"]

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a run uses."""
    return version.versions(LIBRARIES)


def versions_told(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for people where a run goes on with other versions of libraries than it began with.

    Args:
        before: versions by name, as they were noted.
        now: as they are.
    """
    other = [
        f"{name} {now.get(name, 'none')} (it was {text})" for name, text in before.items() if now.get(name) != text
    ]
    return (
        [f"The run goes on with other versions: {', '.join(other)}; it may not be the same to the bit"]
        if other
        else []
    )
