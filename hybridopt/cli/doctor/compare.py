"""Results that were worked out in several ways, compared with those of the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.checksums import checksum
from .compiling import compiles
from .finding import FAIL, OK, REPORT, SKIPPED, Finding
from .machine import CPU, Machine, Way

__all__ = ["EXACT", "Bound", "Results", "compared", "in_all_ways"]

Results = Mapping[str, Tensor]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
ALONE = "nothing to compare the CPU's results with; leave --quick out, or take a GPU"


@dataclass(frozen=True)
class Bound:
    """By how much results may differ.

    Args:
        relative: the largest difference, over the largest magnitude in the tensor.
        share: of the elements that may differ at all.
    """

    relative: float = 0.0
    share: float = 1.0

    def __str__(self) -> str:
        share = "" if self.share == 1 else f"{self.share:.0%} of the elements, "
        return "no bit" if self == EXACT else f"{share}{self.relative:.1e}"


EXACT = Bound(0.0, 0.0)


@dataclass
class Difference:
    """How results differ.

    Args:
        count: elements whose bits are not the same.
        elements: that were compared.
        relative: the largest difference, over the largest magnitude in its tensor; infinite for NaN.
    """

    count: int = 0
    elements: int = 0
    relative: float = 0.0

    def within(self, bound: Bound) -> bool:
        """Return whether that is allowed."""
        return not self.count or (self.relative <= bound.relative and self.count <= bound.share * self.elements)

    def __str__(self) -> str:
        return f"{self.count:,} of {self.elements:,} elements differ, by up to {self.relative:.1e}"


def in_all_ways(
    machine: Machine, work: Callable[[torch.device, bool], Results], ways: Mapping[str, Way] | None = None
) -> tuple[Results, dict[str, Results]]:
    """Work out results on the CPU without compiling, and in every other way, by its title.

    Args:
        machine: what is examined.
        work: takes a device and whether to compile, and returns tensors by name.
        ways: the other ways; None: those of the machine.
    """
    ways = machine.ways if ways is None else ways
    return work(CPU, False), {_title(way, *told): work(*told) for way, told in ways.items()}


def compared(
    name: str, wanted: Results, found: Mapping[str, Results], bound: Bound = EXACT, known: int | None = None
) -> Finding:
    """Return the line that says whether results are what the CPU has.

    Args:
        name: of the check.
        wanted: what they have to be, by name.
        found: by the way in which they were worked out.
        bound: by how much they may differ.
        known: the sum of the checksums of `wanted`, where every machine has the same.
    """
    told = {way: _difference(wanted, results) for way, results in found.items()}
    numbers = {f"{way}: {key}": float(value) for way, one in told.items() for key, value in vars(one).items()}
    wrong = [f"{way}: {one}" for way, one in told.items() if not one.within(bound)]
    own = None if known is None else sum(map(checksum, wanted.values())) % (1 << 64)
    if own != known:
        wrong.insert(0, f"cpu: not the known numbers, but those of checksum {own:#x}")
    if wrong:
        return Finding(name, FAIL, f"{'; '.join(wrong)}; allowed: {bound}", REPORT, numbers)
    against = [*(["known numbers"] if known is not None else []), *told]
    if not against:
        return Finding(name, SKIPPED, ALONE)
    return Finding(name, OK, f"{_how_close(list(told.values()), bound)} ({'; '.join(against)})", numbers=numbers)


def _title(way: str, device: torch.device, compile: bool) -> str:
    """Return the name of a way, which says so if nothing is compiled here although it was asked for."""
    return way if not compile or compiles(device) else way.replace("compiled", "without a compiler")


def _how_close(told: list[Difference], bound: Bound) -> str:
    if not any(one.count for one in told):
        return "equal to the bit"
    most, share = max(one.relative for one in told), max(one.count / one.elements for one in told)
    return f"{share:.2%} of the elements differ, by up to {most:.1e}; allowed: {bound}"


def _difference(wanted: Results, found: Results) -> Difference:
    total = Difference()
    for name, one in wanted.items():
        other = found[name].detach().to(CPU)
        assert one.dtype == other.dtype and one.shape == other.shape, name
        differs = _bits(one) != _bits(other)
        total.count, total.elements = total.count + int(differs.sum()), total.elements + one.numel()
        if differs.any():
            total.relative = max(total.relative, _relative(one.detach().double(), other.double()))
    return total


def _relative(one: Tensor, other: Tensor) -> float:
    off = ((one - other).abs().max() / one.abs().max().clamp(min=torch.finfo(torch.float32).tiny)).item()
    return off if off == off else float("inf")


def _bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(BITS[x.element_size()])
