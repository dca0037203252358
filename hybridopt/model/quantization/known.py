"""The known quantization schemes, by name and by what they are for."""

from ...core.contracts import Scheme
from ...core.errors import check_choice
from ...core.registry import every, make, names

__all__ = ["frozen_names", "named", "scheme_names", "usual"]

SHAPE = (4096, 4096)  # of a weight by which schemes are compared


def scheme_names() -> tuple[str, ...]:
    """Return the names of all schemes as users write them, sorted."""
    return tuple(name.replace("_", "-") for name in names("schemes"))


def named(name: str, owner: str) -> Scheme:
    """Return the scheme of this name, for the option `quantization` of `owner`; raise for unknown names."""
    spelled = name.replace("_", "-") if isinstance(name, str) else name
    if spelled not in scheme_names():
        check_choice(owner, "quantization", name, scheme_names())
    return make("schemes", spelled)


def usual(bits: int, trains: bool = False) -> Scheme:
    """Return the scheme with codes of so many bits that takes the fewest bytes, frozen or trained."""
    found = [scheme for scheme in every("schemes") if (scheme.bits, scheme.trains) == (bits, trains)]
    return min(found, key=lambda scheme: scheme.nbytes(SHAPE))


def frozen_names() -> str:
    """Return the names of the schemes that freeze the base, for an error: quoted, with "or" before the last."""
    *most, last = (repr(scheme.name) for scheme in every("schemes") if not scheme.trains)
    return f"{', '.join(most)} or {last}" if most else last
