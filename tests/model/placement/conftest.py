"""A model that is placed, for tests that do not mind which way."""

import pytest

from support.placed import WAYS, adapted, model_at


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def model(way):
    """The model of the folder, placed, without adapters."""
    return model_at(way)


@pytest.fixture
def trained(model):
    """The same with adapters, wrapped."""
    return adapted(model)
