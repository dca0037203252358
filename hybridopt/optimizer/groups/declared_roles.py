"""What a model tells of the parameters that an optimizer is given."""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from ...model.containers import contained
from ...model.roles import Param, clean, guesses, params
from ...policy.plan import Entry

__all__ = ["Known", "in_model", "members", "params_of"]

Known = str | Param | Entry  # of a parameter: its role, that and its blocks, or its treatment, too


def in_model(module: nn.Module | None) -> tuple[dict[str, Param], dict[int, str]]:
    """Return what is known of parameters by name, and their names by identity; nothing without a model."""
    if module is None:
        return {}, {}
    module = contained(module)
    return {p.name: p for p in params(module)}, {id(p): clean(n) for n, p in module.named_parameters()}


def members(group: Mapping) -> Iterable:
    """Return what a group has as its parameters; nothing where that can be read only once, or is wrong."""
    given = group.get("params")
    return given if isinstance(given, list | tuple) else ()


def params_of(given: Iterable, known: Mapping[str, Known]) -> Iterator[Param]:
    """Yield what is known of a model, or of the parameters alone that an optimizer is given.

    Args:
        given: what an optimizer is made of.
        known: roles, Params or Entries by name.
    """
    told = [one.param if isinstance(one, Entry) else one for one in known.values() if not isinstance(one, str)]
    if told or isinstance(given, Tensor):
        yield from told
        return
    found: dict[str, Tensor] = {}
    for one in (pair for each in given for pair in (members(each) if isinstance(each, Mapping) else (each,))):
        name, p = one if isinstance(one, tuple) and len(one) == 2 else (f"param_{len(found)}", one)
        if isinstance(p, Tensor):
            found[clean(str(name))] = p
    roles = guesses(found) | {clean(n): role for n, role in known.items() if isinstance(role, str)}
    yield from (Param(n, roles[n], tuple(p.shape), p.dtype, p.requires_grad) for n, p in found.items())
