"""Options of a command in groups: frozen dataclasses, whose fields are the options."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

__all__ = ["grouped"]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with one keyword for each field of those parameters that are dataclasses.

    That is the form which typer reads. Defaults and annotations are those of the fields.
    """
    hints = get_type_hints(command, include_extras=True)
    own = signature(command).parameters
    groups = {name: hints[name] for name in own if is_dataclass(hints[name])}
    flat = [each for name in own for each in _parts(own[name].replace(annotation=hints[name]), groups.get(name))]
    form = Signature(sorted(flat, key=lambda each: each.default is not Parameter.empty))

    @wraps(command)
    def call(*values: Any, **options: Any) -> None:
        bound = form.bind(*values, **options)
        bound.apply_defaults()
        given = bound.arguments
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**given, **made)

    call.__signature__ = form  # type: ignore[attr-defined]  # functions have room for it
    call.__annotations__ = {each.name: each.annotation for each in flat}
    return call


def _parts(parameter: Parameter, group: Any) -> Iterator[Parameter]:
    """Yield the parameter itself, or one for each field of its group."""
    if group is None:
        yield parameter
        return
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield parameter.replace(name=field.name, annotation=hints[field.name], default=default)
