"""The one error that hybridopt raises for bad input, and the checks that raise it."""

import errno
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from numbers import Real
from os.path import commonprefix
from sys import float_info
from typing import Any

__all__ = ["NO_ROOM", "HybridOptError", "HybridOptWarning", "check_choice", "check_count", "check_number"]
__all__ += ["check_share", "known", "nearest", "shown", "written"]

LARGEST_COUNT = 2**64 - 1  # what 64 bits hold
LONGEST = 120  # characters of a value in an error
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says of a disk that is full


class HybridOptError(ValueError, RuntimeError):
    """Bad input or an impossible request, found before anything was changed.

    The text names the parameter or option, its value, what is allowed and the cure. It is a `ValueError` and a
    `RuntimeError`, so that code written for torch's own optimizers and loaders catches it.

    Args:
        text: the message.
        owner: whose option is wrong; the message then begins with it.
    """

    def __init__(self, text: str, owner: str = ""):
        super().__init__(f"{owner}: {text}" if owner else text)
        self.owner, self.text = owner, text

    def __reduce__(self) -> tuple[type["HybridOptError"], tuple[str, str]]:
        return HybridOptError, (self.text, self.owner)

    def of(self, owner: str) -> "HybridOptError":
        """Return the error with another owner, where an option of one thing is handed on by another."""
        return HybridOptError(self.text, owner) if self.owner else self


class HybridOptWarning(UserWarning):
    """Something allowed that is known to hurt."""


def check_number(
    owner: str, name: str, value: object, low: float, high: float = float("inf"), *, open_end: bool = False
) -> None:
    """Raise HybridOptError unless `value` is a finite real number in [low, high].

    Args:
        owner: whose option it is.
        name: of the option.
        value: what was given.
        low: the least allowed.
        high: the largest allowed; infinity is not.
        open_end: `high` itself is not allowed either.
    """
    number: Any = value  # Real declares no order
    most = min(high, float_info.max)  # whole numbers may be larger than any float
    good = isinstance(value, Real) and not isinstance(value, bool) and low <= number <= most
    if not good or (open_end and value == high):
        end = ")" if open_end or high == float("inf") else "]"
        limits = f"[{low:g}, {high:g}{end}"
        cure = f"give a number in {limits}{_as_number(value)}"
        raise HybridOptError(f"{name}={shown(value)} is not allowed; {cure}", owner)


def check_count(owner: str, name: str, value: object, low: int, high: int = LARGEST_COUNT) -> None:
    """Raise HybridOptError unless `value` is a whole number of at least `low` and at most `high`.

    Args:
        owner: whose option it is.
        name: of the option.
        value: what was given.
        low: the least allowed.
        high: the largest allowed.
    """
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    large = isinstance(value, int) and value > high
    limit = f" and at most {high}" if large or high != LARGEST_COUNT else ""
    cure = f"give a whole number of at least {low}{limit}{_as_number(value)}"
    raise HybridOptError(f"{name}={shown(value)} is not allowed; {cure}", owner)


def check_share(owner: str, name: str, value: object, least: float = 0) -> None:
    """Raise HybridOptError unless `value` is a share, a number in [least, 1].

    Args:
        owner: whose option it is.
        name: of the option.
        value: what was given.
        least: the least allowed.
    """
    number: Any = value
    if isinstance(value, Real) and not isinstance(value, bool) and 2 <= number <= 100:  # in percent
        meant = f"give a number in [{least:g}, 1], as it is a share; did you mean {number / 100:g}?"
        raise HybridOptError(f"{name}={shown(value)} is not allowed; {meant}", owner)
    check_number(owner, name, value, least, 1)


def check_choice(owner: str, name: str, value: object, choices: Iterable[str]) -> None:
    """Raise HybridOptError, with the known names, unless `value` is one of them.

    Args:
        owner: whose option it is.
        name: of the option.
        value: what was given.
        choices: the known names.
    """
    if not isinstance(value, str) or value not in set(choices):
        raise HybridOptError(f"{name}={shown(value)} is not known; {known(value, choices)}", owner)


def known(value: object, choices: Iterable[str]) -> str:
    """Return what may be written instead of `value`: the closest of `choices`, and all of them."""
    choices = sorted(choices)
    best = nearest(value if isinstance(value, str) else shown(value), choices)
    return (f"did you mean {best!r}? " if best else "") + "Known: " + (", ".join(choices) or "none")


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """Return the name that was probably meant: one spelled alike, or one that `value` has in it; None without.

    value: what was written, in whatever case.
    """
    plain = {_plain(choice): choice for choice in choices}
    text = _plain(value)
    if len(text) > LONGEST:
        return None
    near = get_close_matches(text, plain, 3) or [name for name in plain if len(name) > 2 and name in text]
    best = max(near, key=lambda name: _likeness(name, text), default=None)
    return None if best is None else plain[best]


def shown(value: object) -> str:
    """Return a value as errors show it: its repr, cut where it is long; its type where it has none."""
    try:
        text = repr(value)
    except Exception:  # such as a whole number of more digits than Python writes
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def written(value: object) -> str:
    """Return a text as it is, and any other value as errors show it."""
    return value if isinstance(value, str) else shown(value)


def _plain(text: str) -> str:
    return text.lower().replace("-", "_")


def _likeness(one: str, other: str) -> tuple[float, int]:
    """Return how alike two names are; of several equally alike, that which begins alike is more so."""
    return SequenceMatcher(None, one, other).ratio(), len(commonprefix([one, other]))


def _as_number(value: object) -> str:
    """Return the number that a text holds, as what was meant."""
    try:
        return f"; did you mean {float(value):g}, without quotes?" if isinstance(value, str) else ""
    except ValueError:
        return ""
