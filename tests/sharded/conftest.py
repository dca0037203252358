"""Groups of processes that the tests of a file share: starting one takes seconds."""

import pytest

from support.ranks import Ranks


@pytest.fixture(scope="module")
def two():
    made = Ranks(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def three():
    made = Ranks(3)
    yield made
    made.close()
