"""The known quantization schemes, by name and by what they are for."""

import sys
from importlib.util import find_spec

from ...core.contracts import Scheme
from ...core.errors import HybridOptError, check_choice
from ...core.registry import every, make, names

__all__ = ["called", "frozen_names", "named", "scheme_names", "usual"]

SHAPE = (4096, 4096)  # of a weight by which schemes are compared


def scheme_names() -> tuple[str, ...]:
    """Return the names of all schemes as users write them, sorted."""
    return tuple(name.replace("_", "-") for name in names("schemes"))


def named(name: str, owner: str) -> Scheme:
    """Return the scheme of this name, for the option `quantization` of `owner`.

    Raises HybridOptError for unknown names, and where the library that the scheme needs is not installed.
    """
    scheme = called(name, owner)
    if scheme.library and not _installed(scheme.library):
        others = [repr(s.name) for s in every("schemes") if not s.library]
        raise HybridOptError(
            f"quantization={scheme.name!r} needs {scheme.library}, which is not installed here: pip install "
            f"{scheme.library}, leave quantization out, or take one that needs no library: {', '.join(others)}",
            owner,
        )
    return scheme


def _installed(library: str) -> bool:
    if library in sys.modules:
        return sys.modules[library] is not None  # None: it may not be imported
    return find_spec(library) is not None


def called(name: str, owner: str) -> Scheme:
    """Return the scheme of this name, installed or not; raise for unknown names, for an option of `owner`."""
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
