"""Offline, quiet and single-threaded, so that results are the same bits on every run; slow files come first."""

import gc
import os
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

DATASETS = TemporaryDirectory(prefix="hybridopt-datasets-")  # the user's cache is left alone
os.environ["HF_DATASETS_CACHE"] = DATASETS.name
KERNELS = Path(gettempdir()) / f"hybridopt-test-kernels-{os.getuid()}"  # compiled once, and kept for the next run
os.environ.setdefault("HYBRIDOPT_KERNELS", str(KERNELS))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
MANY = 150_000  # objects


def pytest_addoption(parser):
    parser.addoption("--whole-grid", action="store_true", help="walk all combinations of tests/grid, not a sixth")


def pytest_collection_modifyitems(items):
    """Mark all that is not slow as fast; slow files come first, so that no worker is left with one at the end."""
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.fast)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Leave what was imported out of later garbage collections, which take a fifth of all time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Do the same after a file of tests that has imported much."""
    if (nextitem is None or nextitem.path != item.path) and len(gc.get_objects()) > MANY:
        gc.collect()
        gc.freeze()
