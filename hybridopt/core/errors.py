"""The one error that hybridopt raises for bad input, and the checks that raise it."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from numbers import Real
from os.path import commonprefix
from sys import float_info
from typing import Any

__all__ = ["HybridOptError", "HybridOptWarning", "check_choice", "check_count", "check_number", "known", "shown"]

LARGEST_COUNT = 2**64 - 1  # what 64 bits hold
LONGEST = 120  # characters of a value in an error


class HybridOptError(ValueError, RuntimeError):
    """Bad input or an impossible request, found before anything was changed.

    The text names the parameter or option, its value, what is allowed and the cure. It is a `ValueError` and a
    `RuntimeError`, so that code written for torch's own optimizers and loaders catches it.
    """


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
        raise HybridOptError(
            f"{owner}: {name}={shown(value)} is not allowed; give a number in [{low:g}, {high:g}{end}"
        )


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
    limit = "" if high == LARGEST_COUNT else f" and at most {high}"
    raise HybridOptError(
        f"{owner}: {name}={shown(value)} is not allowed; give a whole number of at least {low}{limit}"
    )


def check_choice(owner: str, name: str, value: object, choices: Iterable[str]) -> None:
    """Raise HybridOptError, with the known names, unless `value` is one of them.

    Args:
        owner: whose option it is.
        name: of the option.
        value: what was given.
        choices: the known names.
    """
    if not isinstance(value, str) or value not in set(choices):
        raise HybridOptError(f"{owner}: {name}={shown(value)} is not known; {known(value, choices)}")


def known(value: object, choices: Iterable[str]) -> str:
    """Return what may be written instead of `value`: the closest of `choices`, and all of them."""
    choices, text = sorted(choices), value if isinstance(value, str) else shown(value)
    near = get_close_matches(text, choices, 3) if len(text) <= LONGEST else []
    best = max(near, key=lambda name: _likeness(name, text), default="")
    return (f"did you mean {best!r}? " if best else "") + "Known: " + (", ".join(choices) or "none")


def shown(value: object) -> str:
    """Return a value as errors show it: its repr, cut where it is long; its type where it has none."""
    try:
        text = repr(value)
    except Exception:  # such as a whole number of more digits than Python writes
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _likeness(one: str, other: str) -> tuple[float, int]:
    """Return how alike two names are; of several equally alike, that which begins alike is more so."""
    return SequenceMatcher(None, one, other).ratio(), len(commonprefix([one, other]))
