"""What printed Triton kernels do with a tile of elements: state that is read and kept, weights that are rounded."""

from collections.abc import Iterable
from dataclasses import dataclass

from ....core.contracts import Codec
from ....parts.codecs._blockwise import LEAST
from ....parts.codecs.fp32 import Fp32
from ....parts.codecs.int8 import Int8

__all__ = ["Tiles", "deeper", "kept_in"]

STORE = {True: "stochastic_bf16({x}, bits16({hash}))", False: "{x}"}  # rounded at random, or by the cast of a store
UNSIGNED = "tl.where(level > 1.0, min_(level, 255.0), tl.where(z > 0, 1.0, 0.0))"
HASH = "row_hash(row, low, high)[:, None] ^ column_hash({column})[None, :]"


@dataclass(frozen=True)
class Tiles:
    """How state and weights of a kernel are kept; its lines call the tile `row`, `mask`, `start` and `own`.

    Args:
        slots: the names of the state of the elements, and whether it may be negative.
        codec: what keeps it.
        random: is the weight rounded at random? Else to nearest.
        rounded: names of the seeds in the order of their keys.
        width: the argument with the elements of a row of the state.
        block: the constant with those of a tile; for codes a block of them.
    """

    slots: tuple[tuple[str, bool], ...]
    codec: Codec
    random: bool
    rounded: tuple[str, ...]
    width: str
    block: str

    @property
    def coded(self) -> bool:
        """Return whether the state is kept as codes."""
        return type(self.codec) is Int8

    @property
    def beside(self) -> tuple[str, ...]:
        """Return the names of raw tensors with a number for every block of the state."""
        return tuple(f"{name}_absmax" for name, _ in self.slots) if self.coded else ()

    @property
    def state(self) -> tuple[str, ...]:
        """Return the names of the raw tensors of the state, in order."""
        return (*dict(self.slots), *self.beside)

    def loaded(self, names: Iterable[str]) -> list[str]:
        """Return the lines that decode slots: each becomes `s_<name>`."""
        wanted = set(names)
        return [line for name, signed in self.slots if name in wanted for line in self._loaded(name, signed)]

    def stored(self, values: dict[str, str]) -> list[str]:
        """Return the lines that keep new values, by slot."""
        return [line for name, signed in self.slots if name in values for line in self._stored(name, signed, values)]

    def key(self, seed: str) -> list[str]:
        """Return the line that reads the seed by which weights are rounded, if they are at random."""
        return [f"low, high = halves(keys, {self.rounded.index(seed)})"] if self.random else []

    def rounding(self, x: str, column: str) -> str:
        """Return the line that rounds new weights.

        Args:
            x: what becomes `weight`.
            column: the numbers of the columns, for random bits.
        """
        return "weight = " + STORE[self.random].format(x=x, hash=HASH.format(column=column))

    def _loaded(self, name: str, signed: bool) -> list[str]:
        if not self.coded:
            return [f"s_{name} = tl.load(state_{name} + own, mask=mask, other=0.0)"]
        top = 127.0 if signed else 255.0
        return [
            self._place,
            f"most = tl.load(state_{name}_absmax + block, mask=row < rows, other=0.0)",
            f"level = tl.load(state_{name} + own, mask=mask, other=0).to(tl.float32)",
            f"s_{name} = level * div_(most, {top})[:, None]",
            *([] if signed else [f"s_{name} = s_{name} * s_{name}"]),
        ]

    def _stored(self, name: str, signed: bool, values: dict[str, str]) -> list[str]:
        value = values[name]
        if not self.coded:
            return [f"tl.store(state_{name} + own, {value}, mask=mask)"]
        top = 127.0 if signed else 255.0
        seen = value if signed else f"sqrt_({value})"
        level = "min_(max_(level, -127.0), 127.0)" if signed else UNSIGNED
        kind = "tl.int8" if signed else "tl.int32).to(tl.uint8"
        return [
            self._place,
            f"z = tl.where(mask, {seen}, 0.0)",
            "most = most_(z)",
            f"tl.store(state_{name}_absmax + block, most, mask=row < rows)",
            f"scale = (div_(1.0, max_(most, {LEAST})) * {top})[:, None]",  # as torch
            f"first, second = halves(keys, {self.rounded.index(name)})",
            f"hashed = row_hash(block, first, second)[:, None] ^ column_hash(tl.arange(0, {self.block}))[None, :]",
            "level = stochastic_level(z * scale, bits16(hashed))",
            f"tl.store(state_{name} + own, ({level}).to({kind}), mask=mask)",
        ]

    @property
    def _place(self) -> str:
        return f"block = row * ({self.width} // {self.block}) + start // {self.block}"


def kept_in(codec: Codec) -> bool:
    """Return whether there are lines for this codec."""
    return type(codec) in (Fp32, Int8)


def deeper(lines: Iterable[str]) -> list[str]:
    """Return lines one level further in."""
    return [f"    {line}" for line in lines]
