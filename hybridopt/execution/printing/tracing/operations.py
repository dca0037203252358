"""What each of torch's operations is in the language that kernels are printed in.

The language is what C++ and Triton have in common: names, + - * and comparisons on float32, and the functions `fma_`,
`div_`, `sqrt_`, `sign_`, `abs_`, `max_`, `min_` and `choose_`, which every skeleton defines. Where torch's own loops
fuse a product with a sum, so does the text, so that a kernel that rounds every operation gives the same bits.
"""

from collections.abc import Callable
from ctypes import c_float
from typing import Any

__all__ = ["OPERATIONS", "number"]


def number(x: float) -> str:
    """Return a number as float32 holds it, in digits that read back as the same."""
    return repr(c_float(x).value)


def _lerp(start: str, end: str, weight: Any) -> str:
    """Return start + weight (end - start), from the nearer end, as torch computes it."""
    if isinstance(weight, str):
        raise NotImplementedError("lerp by a tensor")
    if abs(weight) < 0.5:
        return f"fma_({number(weight)}, {end} - {start}, {start})"
    return f"fma_({number(weight - 1)}, {end} - {start}, {end})"


def _addcmul(x: str, a: str, b: str, value: float = 1) -> str:
    return f"fma_({a}, {b}, {x})" if value == 1 else f"fma_({number(value)} * {a}, {b}, {x})"


def _added(x: str, y: str, alpha: float = 1) -> str:
    return f"{x} + {y}" if alpha == 1 else f"fma_({number(alpha)}, {y}, {x})"


def _subtracted(x: str, y: str, alpha: float = 1) -> str:
    return f"{x} - {y}" if alpha == 1 else f"fma_({number(-alpha)}, {y}, {x})"


def _clamped(x: str, low: Any = None, high: Any = None) -> str:
    out = x if low is None else f"max_({x}, {number(low)})"
    return out if high is None else f"min_({out}, {number(high)})"


def _power(x: str, exponent: Any) -> str:
    if exponent not in (2, 0.5):
        raise NotImplementedError(f"the power {exponent}")
    return f"{x} * {x}" if exponent == 2 else f"sqrt_({x})"


def _same(x: str, **_: object) -> str:
    return x


Text = Callable[..., str]
OPERATIONS: dict[str, Text] = {  # by the operation's name without its overload; arguments are texts or numbers
    "abs": lambda x: f"abs_({x})",
    "add": _added,
    "addcmul": _addcmul,
    "alias": _same,
    "clamp": lambda x, low=None, high=None: _clamped(x, low, high),
    "clamp_max": lambda x, high: _clamped(x, None, high),
    "clamp_min": lambda x, low: _clamped(x, low),
    "clone": _same,
    "copy": lambda x, y: y,
    "detach": _same,
    "div": lambda x, y: f"div_({x}, {y})",
    "eq": lambda x, y: f"{x} == {y}",
    "ge": lambda x, y: f"{x} >= {y}",
    "gt": lambda x, y: f"{x} > {y}",
    "le": lambda x, y: f"{x} <= {y}",
    "lerp": _lerp,
    "lt": lambda x, y: f"{x} < {y}",
    "maximum": lambda x, y: f"max_({x}, {y})",
    "minimum": lambda x, y: f"min_({x}, {y})",
    "mul": lambda x, y: f"{x} * {y}",
    "neg": lambda x: f"-{x}",
    "pow": _power,
    "reciprocal": lambda x: f"div_(1.0, {x})",
    "rsqrt": lambda x: f"div_(1.0, sqrt_({x}))",
    "rsub": lambda x, y, alpha=1: _subtracted(y, x, alpha),
    "sign": lambda x: f"sign_({x})",
    "sqrt": lambda x: f"sqrt_({x})",
    "square": lambda x: f"{x} * {x}",
    "sub": _subtracted,
    "where": lambda chosen, x, y: f"choose_({chosen}, {x}, {y})",
}
