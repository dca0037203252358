"""Groups of options: a command takes each field as an option, and gets the groups whole."""

from dataclasses import dataclass
from inspect import signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from hybridopt.cli.grouped import grouped
from hybridopt.cli.main import app

MOST_ARGUMENTS = 8


@dataclass(frozen=True)
class Size:
    batch: Annotated[int, typer.Option(help="Rows.")] = 3
    wide: Annotated[bool, typer.Option("--wide")] = False


@pytest.fixture
def got():
    return []


@pytest.fixture
def command(got):
    @grouped
    def command(name: str, size: Size, loud: bool = False) -> None:
        """Do it."""
        got.append((name, size, loud))

    return command


def test_fields_are_options_of_the_command_line(command, got):
    front = typer.Typer()
    front.command()(command)
    assert CliRunner().invoke(front, ["it", "--batch", "7", "--wide", "--loud"]).exit_code == 0
    assert CliRunner().invoke(front, ["it"]).exit_code == 0
    assert got == [("it", Size(7, True), True), ("it", Size(), False)]
    assert "Rows." in CliRunner().invoke(front, ["--help"]).output


def test_fields_are_arguments_in_python_too(command, got):
    command("it", wide=True)
    assert got == [("it", Size(wide=True), False)]
    assert list(signature(command).parameters) == ["name", "batch", "wide", "loud"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        command("it", size=Size())


def test_commands_take_few_arguments_themselves():
    for each in app.registered_commands:
        plain = getattr(each.callback, "__wrapped__", each.callback)
        assert plain.__code__.co_argcount <= MOST_ARGUMENTS, each.callback.__name__
