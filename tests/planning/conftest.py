"""What tests of one file share: estimates, which take nearly all the time of searches, and a heap that is small."""

import gc
from importlib import import_module

import pytest

from hybridopt.planning import Estimator

SEARCHING = "hybridopt.planning.ways.search", "hybridopt.auto"


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Steps that are measured look for garbage first: among what tests have made, not all that is imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def known():
    """Searches of one model share what was estimated for it."""
    shared: dict[str, Estimator] = {}

    class Shared(Estimator):
        def __new__(cls, source):
            return shared.setdefault(repr(source), super().__new__(cls))

        def __init__(self, source):
            if not vars(self):
                super().__init__(source)

    with pytest.MonkeyPatch.context() as patch:
        for name in SEARCHING:
            patch.setattr(import_module(name), "Estimator", Shared)
        yield
