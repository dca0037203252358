"""The companded codec: its levels, and that it is nearer than the linear one where most of a moment is."""

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.contracts import Slot
from hybridopt.core.registry import make
from hybridopt.parts import Companded8, Int8

SLOT = Slot((64, 128))


def kept(codec, x, key=1):
    raw = {k: torch.zeros(s.shape, dtype=s.dtype) for k, s in codec.raw(SLOT).items()}
    codec.store(raw, x.clone(), SLOT, key)
    return codec.load(raw, SLOT)


def test_every_level_comes_back_and_levels_are_as_stated():
    codec = Companded8(block=256, exact_below=0)
    levels = torch.arange(-127.0, 128.0)
    u = levels.abs() / 127
    shares = (u / (2 - u)).copysign(levels)  # 2 u' / (1 + u') = u
    x = torch.cat([shares, torch.zeros(1)]).repeat(32).view(64, 128) * 3e-5
    torch.testing.assert_close(kept(codec, x), x, rtol=1e-5, atol=1e-12)


def test_heavy_tails_are_kept_better_than_by_levels_of_one_distance():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) ** 3
    block = {"block": 128, "exact_below": 0}
    errors = [(kept(codec, x) - x).abs().median() for codec in (Companded8(**block), Int8(**block))]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("options", [{"block": 8}, {"block": 2**21}, {"exact_below": -1}, {"block": 1.5}], ids=str)
def test_bad_options_are_refused(options):
    with pytest.raises(HybridOptError, match=f"companded8: {next(iter(options))}"):
        make("codecs", "companded8", **options)
