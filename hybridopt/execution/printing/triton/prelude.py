"""What every printed Triton kernel calls: the functions of its language, and rounding at random.

Imported only where triton is installed. Hashes and rounding are those of `core.numerics.rounding`, bit for bit.
"""

import triton
import triton.language as tl

__all__ = [
    "abs_",
    "bits16",
    "choose_",
    "column_hash",
    "div_",
    "fma_",
    "folded",
    "halves",
    "max_",
    "min_",
    "most_",
    "row_hash",
    "sign_",
    "sqrt_",
    "stochastic_bf16",
    "stochastic_level",
    "summed",
]


@triton.jit
def fma_(a, b, c):
    """Return a * b + c, rounded once.

    Args:
        a: a factor.
        b: the other one.
        c: what is added.
    """
    return tl.fma(a, b, c)


@triton.jit
def div_(a, b):
    """Return a / b, rounded to nearest."""
    return tl.div_rn(a, b)


@triton.jit
def sqrt_(a):
    """Return the square root, rounded to nearest."""
    return tl.sqrt_rn(a)


@triton.jit
def sign_(x):
    """Return -1, 0 or 1; 0 for NaN."""
    return (x > 0).to(tl.float32) - (x < 0).to(tl.float32)


@triton.jit
def abs_(x):
    """Return the absolute value."""
    return tl.abs(x)


@triton.jit
def max_(a, b):
    """Return the larger one; NaN where one of them is, as torch does."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def min_(a, b):
    """Return the smaller one; NaN where one of them is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def most_(x):
    """Return the largest absolute value of every row, [rows] of float32; NaN where there is one."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # in the order of absolute values, NaN above all; tl.max drops it
    return tl.max(bits, 1).to(tl.float32, bitcast=True)


@triton.jit
def choose_(chosen, a, b):
    """Return one of two values, element by element.

    Args:
        chosen: where it is a.
        a: one value.
        b: the other one.
    """
    return tl.where(chosen, a, b)


@triton.jit
def _mixed(x, key):
    x = ((x >> 16) ^ x) * 2246822507 ^ key
    x = ((x >> 13) ^ x) * 3266489909
    return (x >> 16) ^ x


@triton.jit
def halves(keys, i):
    """Return both halves of key `i`, uint32."""
    key = tl.load(keys + i)
    return (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)


@triton.jit
def row_hash(row, low, high):
    """Return the hash of a row with a key, uint32.

    Args:
        row: its number.
        low: the lower half of the key.
        high: the upper half.
    """
    return _mixed(_mixed(row.to(tl.uint32) * 0x9E3779B9 + 0x3C6EF372, 0x3C6EF372) + low, high)


@triton.jit
def column_hash(column):
    """Return the hash of a column, uint32."""
    return _mixed(column.to(tl.uint32) * 0x9E3779B9 + 0x1B873593, 0x1B873593)


@triton.jit
def bits16(hashed):
    """Return sixteen random bits from the hashes of row and column, joined by ^."""
    x = hashed * 2246822507
    return ((x >> 15) ^ x) * 3266489909 >> 16


@triton.jit
def stochastic_bf16(x, bits):
    """Round float32 to bfloat16, up or down by random bits; NaN and infinity stay."""
    u = x.to(tl.uint32, bitcast=True)
    y = ((u + bits) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return tl.where((u & 0x7F800000) == 0x7F800000, x, y).to(tl.bfloat16)


@triton.jit
def stochastic_level(x, bits):
    """Round to a whole number, up or down by random bits."""
    return tl.floor(x + bits.to(tl.int32).to(tl.float32) * (1 / 65536))


@triton.jit
def summed(at, count, BS: tl.constexpr):
    """Return the sum of numbers that lie behind each other.

    Args:
        at: the first.
        count: how many there are.
        BS: how many are read at once.
    """
    total = tl.zeros([BS], tl.float32)
    for start in range(0, count, BS):
        j = start + tl.arange(0, BS)
        total += tl.load(at + j, mask=j < count, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def folded(at, parts, width, column, there, BP: tl.constexpr):
    """Return sums down some columns of lines that programs have left.

    Args:
        at: the first line.
        parts: how many lines there are.
        width: of a line.
        column: which columns, [n].
        there: which of them there are, [n].
        BP: lines that are read at once.
    """
    total = tl.zeros([BP, column.shape[0]], tl.float32)
    for start in range(0, parts, BP):
        part = start + tl.arange(0, BP)
        mask = (part[:, None] < parts) & there[None, :]
        total += tl.load(at + part[:, None] * width + column[None, :], mask=mask, other=0.0)
    return tl.sum(total, 0)
