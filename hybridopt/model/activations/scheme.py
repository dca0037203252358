"""A scheme of kept inputs as users say it."""

import json
from dataclasses import fields
from typing import Any

from ...core.contracts import Activations
from ...core.contracts.check import check_part
from ...core.errors import HybridOptError, known
from ...core.registry import make, names, title

__all__ = ["check_named", "read_activations", "written"]


def read_activations(value: str | Activations | None, owner: str) -> Activations | None:
    """Return the scheme that a user has given, by name or as it is; None for inputs that are kept as they are.

    Args:
        value: a name such as "wta-crs", with options as in "wta-crs:share=0.2" where others than usual are wanted, a
            scheme, or None.
        owner: who was given it, for errors.
    """
    if value is None:
        return None
    if isinstance(value, str):
        name, _, text = value.partition(":")
        if name.replace("-", "_") not in names("activations"):
            told = known(name, [each.replace("_", "-") for each in names("activations")])
            raise HybridOptError(f"activations={value!r:.100} is not known; {told}", owner)
        made: Activations = make("activations", name, **_options(value, text))
        return made
    check_part(owner, "activations", value, Activations)
    return value


def written(scheme: Activations) -> str:
    """Return a scheme as text, as `read_activations` takes it; one that is not of this package as Python shows it."""
    name = title(type(scheme))
    if name == type(scheme).__name__:
        return repr(scheme)
    usual, own = type(scheme)(), [f.name for f in fields(scheme)]  # type: ignore[arg-type]  # schemes are dataclasses
    given = [f"{n}={vars(scheme)[n]}" for n in own if vars(scheme)[n] != vars(usual)[n]]
    return ":".join([name.replace("_", "-"), *([",".join(given)] if given else [])])


def check_named(scheme: Activations | None) -> None:
    """Raise HybridOptError if a scheme is asked for where the policy is not."""
    if scheme is not None:
        raise HybridOptError(
            "activations=... is not allowed with policy='auto', which chooses between ways that keep all or compute "
            "anew; name a policy (policy='frugal'), or leave activations out"
        )


def _options(value: str, text: str) -> dict[str, Any]:
    """Return the options in "share=0.2,...", as JSON reads their values."""
    found: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, equals, option = pair.partition("=")
        if name.strip() in found:
            raise HybridOptError(f"activations={value!r:.100} gives {name.strip()} twice; leave one of them out")
        try:
            found[name.strip()] = json.loads(option)
        except ValueError:
            raise HybridOptError(
                f"activations={value!r:.100} is not allowed; write it like 'wta-crs:share=0.2'"
            ) from None
    return found
