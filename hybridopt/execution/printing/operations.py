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


def _same(x: str, **_: object) -> str:
    return x


Text = Callable[..., str]
OPERATIONS: dict[str, Text] = {  # by the operation's name without its overload; arguments are texts or numbers
    "abs": lambda x: f"abs_({x})",
    "add": _added,
    "addcmul": _addcmul,
    "alias": _same,
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
    "sign": lambda x: f"sign_({x})",
    "sqrt": lambda x: f"sqrt_({x})",
    "square": lambda x: f"{x} * {x}",
    "sub": _subtracted,
    "where": lambda chosen, x, y: f"choose_({chosen}, {x}, {y})",
}
