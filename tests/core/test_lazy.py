"""What a package offers is imported when it is asked for, and is what its list says."""

import ast
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["hybridopt", "hybridopt.planning"])
def test_offers_agree_with_the_list_and_with_what_type_checkers_read(name):
    package = import_module(name)
    tree = ast.parse(Path(package.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    read = {alias.name: node.module for node in block.body for alias in node.names}
    assert read == package._HOMES and set(read) <= set(package.__all__)
    assert all(getattr(package, each) is not None for each in package.__all__)


def test_parts_of_a_package_are_found_and_others_are_not():
    import hybridopt

    assert hybridopt.parts.AdamW is import_module("hybridopt.parts").AdamW
    with pytest.raises(AttributeError, match="'hybridopt' has no attribute 'wrapp'"):
        hybridopt.wrapp  # noqa: B018 (it raises)


def test_completion_offers_what_users_call_and_nothing_else():
    import hybridopt

    offered = set(dir(hybridopt))
    assert set(hybridopt.__all__) < offered and all(getattr(hybridopt, name) is not None for name in offered)
    assert not {"TYPE_CHECKING", "offered", "wrapping"} & offered
