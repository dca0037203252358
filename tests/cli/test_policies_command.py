"""`hybridopt policies NAME` tells one policy at length, from its own class."""

from dataclasses import fields

import pytest
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.core.registry import find, names
from hybridopt.policy.description import described
from support.models import tiny_llama


def run(*arguments):
    return CliRunner().invoke(app, ["policies", *arguments], env={"COLUMNS": "160"})


@pytest.mark.parametrize("name", names("policies"))
def test_every_option_of_every_policy_has_a_default_and_a_meaning(name):
    found = described(name)
    assert [option for option, _, _ in found["options"]] == [field.name for field in fields(find("policies", name))]
    assert all(default and len(meaning) > 3 for _, default, meaning in found["options"])
    assert found["tags"]


def test_meanings_are_those_of_the_class():
    options = {name: (default, meaning) for name, default, meaning in described("frugal")["options"]}
    assert options["update_gap"] == ("200", "steps between two choices.")
    assert options["full"] == options["full"][:1] + ("the two rules.",) and options["free"][1] == "the two rules."
    assert "Zmushko et al. 2024" in described("frugal")["summary"]


@pytest.mark.parametrize("name", ["frugal", "badam", "mezo", "adamw"])
def test_tags_are_those_of_a_model(name):
    model = hybridopt.wrap(tiny_llama(), policy=name)
    told = described(name)["tags"]
    live = {(entry.param.role, entry.tag) for entry in model.hybrid.resolved().entries}
    assert {(role, told[role]) for role, _ in live} <= live


def test_the_command_shows_one_or_all():
    one = run("frugal")
    assert one.exit_code == 0
    assert all(text in one.output for text in ("Zmushko", "update_gap", "200", "steps between two choices", "split"))
    assert "galore" not in one.output
    every = run()
    assert all(name in every.output for name in names("policies")) and "update_gap=200" in every.output


def test_a_typing_error_is_told_the_nearest_name():
    error = run("frugle").exception
    assert isinstance(error, HybridOptError) and "frugal" in str(error)
