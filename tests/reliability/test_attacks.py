"""Every attack, a few times; `python tests/reliability` tries them often."""

import pytest
from reliability.attacks import ATTACKS

from support.attacks import tally

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
FIRST = 1000  # other seeds than the tests of hostile files and states have


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_lost(name):
    figures = tally(ATTACKS[name], range(FIRST, FIRST + ATTACKS[name].few))
    assert not figures.lost, "\n".join(figures.lost)
    assert figures.survived == figures.tried == ATTACKS[name].few
