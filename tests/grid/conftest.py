"""Which combinations of the grid are walked: a sixth, or with `--whole-grid` all."""

import pytest

from support.grid.cells import CELLS, WALKED


@pytest.fixture(scope="session")
def cells(request):
    return CELLS if request.config.getoption("--whole-grid") else WALKED
