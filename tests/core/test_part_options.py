"""Options that are read from files are those that the classes have."""

from dataclasses import fields

import pytest

from hybridopt.core.part_files import names
from hybridopt.core.part_options import options
from hybridopt.core.registry import find


@pytest.mark.parametrize("kind", ["policies", "rules", "splits"])
def test_options_are_those_of_the_classes(kind):
    for name in names(kind):
        read = options(kind, name)
        assert read is None or set(read) == {f.name for f in fields(find(kind, name))}, name
    assert all(options("policies", name) for name in names("policies"))
