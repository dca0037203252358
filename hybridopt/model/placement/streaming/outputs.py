"""The tensors in what a module returns, whatever it is made of."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

__all__ = ["tensors_in"]

DEPTH = 6  # of containers within containers


def tensors_in(output: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """Yield the tensors in tensors, sequences, mappings, dataclasses and objects with attributes, within one another.

    Args:
        output: of a module.
        depth: of containers that are looked into.
    """
    if isinstance(output, Tensor):
        yield output
    elif depth and not isinstance(output, str | bytes | int | float | complex | type(None)):
        for part in _parts(output):
            yield from tensors_in(part, depth - 1)


def _parts(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, tuple | list):
        return list(output)
    if is_dataclass(output):
        return [getattr(output, each.name, None) for each in fields(output)]
    return list(getattr(output, "__dict__", {}).values())
