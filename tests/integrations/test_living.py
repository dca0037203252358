"""Objects of a class are found wherever they are held."""

import sys
from types import ModuleType

import pytest

from hybridopt.integrations.live_objects import living


class Runner:
    """Stands for a trainer."""


class Fast(Runner):
    """Stands for a user's own."""


class Mock:
    """Says that it is another class, as mocks do."""

    __class__ = Runner


@pytest.fixture
def module(monkeypatch):
    module = ModuleType("somewhere")
    module.Runner = Runner
    monkeypatch.setitem(sys.modules, "somewhere", module)


def test_objects_of_a_class_and_of_derived_ones_are_found(module):
    class Faster(Fast):
        pass

    held, hidden, mock = Runner(), {"deep": [Faster()]}, Mock()
    assert isinstance(mock, Runner)
    found = living("somewhere", "Runner")
    assert {id(x) for x in found} == {id(held), id(hidden["deep"][0])}
    del held, found
    assert [type(x) for x in living("somewhere", "Runner")] == [Faster]


def test_what_is_not_imported_is_not_searched_for():
    assert living("nowhere", "Runner") == []
