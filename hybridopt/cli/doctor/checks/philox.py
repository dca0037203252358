"""Random bits and the directions made of them: the published answers, and the same sums on every device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ....core.numerics.directions import Direction, combine_
from ....core.numerics.philox import MASK, words
from ..compare import compared, in_all_ways
from ..examine import Check
from ..finding import FAIL, OK, REPORT, Finding
from ..inputs import noise
from ..machine import Machine

__all__ = ["ANSWERS", "CHECK"]

# Of Philox4x32-10, by Random123 (kat_vectors): counter, key, the four words.
ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
COUNT = 1 << 18  # elements; more than are worked out beforehand
KNOWN = 0xAE2FB752163718C5


def _philox(machine: Machine) -> Iterator[Finding]:
    wrong = [counter for counter, key, answer in ANSWERS if _words(counter, key, machine.device) != answer]
    if wrong:
        yield Finding("philox", FAIL, f"other words than those that are published, for the counter {wrong[0]}", REPORT)
    else:
        yield Finding("philox", OK, f"the {len(ANSWERS)} published answers")
    yield compared("noise", *in_all_ways(machine, _sums), known=KNOWN)


def _words(counter: str, key: str, device: torch.device) -> str:
    low, high, step, index = (int(word, 16) for word in counter.split())
    left, right = (int(word, 16) for word in key.split())
    block = (high << 32 | low) - (high >> 31 << 64)  # as int64
    found = words(right << 32 | left, block, 1, step, index, device)[0].tolist()
    return " ".join(f"{word & MASK:08x}" for word in found)


def _sums(device: torch.device, compile: bool) -> dict[str, Tensor]:
    """Add noise of both kinds to weights, as steps and evaluations without gradients do."""
    found = {}
    for kind, dtype, decay in (("rademacher", torch.bfloat16, 1.0), ("gaussian", torch.float32, 0.999)):
        base = noise(kind, (COUNT,)).to(device, dtype)
        found[kind] = torch.empty_like(base)
        combine_(found[kind], base, [(1e-2, Direction(2**62 + 1, 7, 1, kind))], decay=decay, compile=compile)
    return found


CHECK = Check("philox", "self-test", 0, _philox, compiles=True)
