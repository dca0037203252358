"""The grid of combinations on LoRA adapters over a base in 4 bits: each trains as asked for, or is refused."""

import pytest

from support.grid.walk import failure
from support.parts import RULES, SPLITS


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("full", RULES)
def test_every_cell_does_what_was_asked_or_is_refused(full, split, cells):
    chosen = [c for c in cells if (c.full, c.split, c.adapters) == (full, split, "LoRA + nf4")]
    failures = [text for text in map(failure, chosen) if text]
    assert chosen and not failures, "\n".join(failures)
