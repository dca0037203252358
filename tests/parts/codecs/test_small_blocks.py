"""State of 8 bits whose blocks are almost nothing, or hold what is no number."""

import pytest
import torch

from hybridopt.core.contracts import Slot
from hybridopt.core.numerics.rounding import Seed
from hybridopt.parts.codecs.companded8 import Companded8
from hybridopt.parts.codecs.int8 import Int8

BLOCK = 64
codecs = pytest.mark.parametrize(
    "codec", [Int8(BLOCK, exact_below=0), Companded8(BLOCK, exact_below=0)], ids=["int8", "companded8"]
)


def kept(codec, x, signed=True):
    slot = Slot(tuple(x.shape), signed=signed)
    raw = {name: torch.zeros(s.shape, dtype=s.dtype) for name, s in codec.raw(slot).items()}
    codec.store(raw, x, slot, Seed(1))
    return raw[""], codec.load(raw, slot)


@codecs
@pytest.mark.parametrize("size", [1e-35, 2e-36, 1e-36, 3e-37, 1e-38, 1e-41, 0.0])
def test_momentum_that_fades_stays_in_its_place_and_order(codec, size):
    x = torch.linspace(-1, 1, BLOCK) * size
    codes, values = kept(codec, x)
    assert ((values - x).abs() <= max(size, 1e-38)).all() and (codes * x >= 0).all()
    assert codes[BLOCK // 2 - 4 : BLOCK // 2 + 4].abs().max() <= 32  # those near zero are near zero


@codecs
def test_squares_that_are_no_number_are_zero_and_infinite_ones_are_not(codec):
    x = torch.ones(2 * BLOCK)
    x[3], x[BLOCK + 3] = float("nan"), float("inf")
    codes, _ = kept(codec, x, signed=False)
    assert codes[3] == 0 and codes[BLOCK + 3] == 1
