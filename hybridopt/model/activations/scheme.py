"""A scheme of kept inputs as users say it."""

from ...core.contracts import Activations
from ...core.contracts.check import check_part
from ...core.errors import HybridOptError, known
from ...core.registry import find, names

__all__ = ["check_named", "read_activations"]


def read_activations(value: str | Activations | None, owner: str) -> Activations | None:
    """Return the scheme that a user has given, by name or as it is; None for inputs that are kept as they are.

    Args:
        value: a name such as "wta-crs", a scheme, or None.
        owner: who was given it, for errors.
    """
    if value is None:
        return None
    if isinstance(value, str):
        kinds = names("activations")
        if value.replace("-", "_") not in kinds:
            told = known(value, [name.replace("_", "-") for name in kinds])
            raise HybridOptError(f"activations={value!r:.100} is not known; {told}", owner)
        made: Activations = find("activations", value)()
        return made
    check_part(owner, "activations", value, Activations)
    return value


def check_named(scheme: Activations | None) -> None:
    """Raise HybridOptError if a scheme is asked for where the policy is not."""
    if scheme is not None:
        raise HybridOptError(
            "activations=... is not allowed with policy='auto', which chooses between ways that keep all or compute "
            "anew; name a policy (policy='frugal'), or leave activations out"
        )
