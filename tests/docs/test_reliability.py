"""Every property of the reliability page names tests that there are."""

import ast
import re
from functools import cache

import pytest
from reliability.attacks import ATTACKS

from support.paths import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", PAGE, re.MULTILINE)


@cache
def names_in(file):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_all_properties_are_there():
    assert [int(number) for number, _ in ROWS] == list(range(1, 56))


@pytest.mark.parametrize(("number", "named"), ROWS)
def test_a_property_names_its_tests(number, named):
    found = re.findall(r"`([\w/]+\.py)::(test_\w+)`", named)
    assert found and all(name in names_in(file) for file, name in found)


def test_every_attack_has_its_figures():
    figures = re.findall(r"^\| ([^:|]+): .* \| (\d+) \| (\d+) \| (\d+) \| .* \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in figures} == set(ATTACKS)
    assert all(int(tried) == int(survived) + int(lost) > 0 for _, tried, survived, lost in figures)
