"""Training with layers that rest elsewhere is training, to the last bit: losses, gradients and adapters."""

from itertools import combinations, product

import pytest

from support.placed import differences
from support.placed_grid import CELLS, CHECKPOINTING, RELEASES, SCHEMES, TARGETS, WALKED, WAYS, Models
from support.pooled_backend import Pooled


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole-grid")
        metafunc.parametrize("cell", CELLS if whole else WALKED, ids=str)


@pytest.fixture(scope="module")
def whole(request):
    return request.config.getoption("--whole-grid")


@pytest.fixture(scope="module")
def models(whole):
    return Models(steps=5 if whole else 2)


def test_it_is_that_of_a_resident_model(models, cell, whole):
    training = cell.training
    how = (training.checkpointing, training.release) if whole else ()  # these change no bit: see below
    assert not differences(models.trained(cell), models.resident(training.scheme, training.targets, *how))


@pytest.mark.parametrize("checkpointing", CHECKPOINTING[1:])
def test_resident_models_train_alike_however_they_compute_again(models, checkpointing):
    assert not differences(models.resident(None, "all"), models.resident(None, "all", checkpointing, "fused"))


@pytest.mark.parametrize("scheme", [None, "nf4"])
def test_with_buffers_that_take_turns_it_is_not(models, scheme):
    targets = TARGETS[SCHEMES.index(scheme) % 2]
    found = models._run(*models.model(scheme, targets, "pooled", Pooled), None, "accumulate")
    expected = models.resident(scheme, targets)
    wrong = differences(found, expected)
    assert found.losses[0] == expected.losses[0] and any(name.startswith("gradients") for name in wrong)


def test_what_is_walked_has_every_two_values():
    axes = {"scheme": SCHEMES, "checkpointing": CHECKPOINTING, "release": RELEASES, "way": WAYS}
    cells = [vars(cell.training) | {"way": cell.way} for cell in WALKED]
    for one, two in combinations(axes, 2):
        assert {(c[one], c[two]) for c in cells} == set(product(axes[one], axes[two]))
    assert {c["targets"] for c in cells} == set(TARGETS) and len(CELLS) == 96 and len(WALKED) == 24
