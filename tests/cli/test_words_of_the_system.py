"""What the system cannot do ends a command with one line, and no encoding of a terminal ends it at all."""

import errno
import io
import os
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hybridopt.cli import main as front
from hybridopt.cli.train import _say
from hybridopt.core.errors import HybridOptError
from support.tiny_chat import save_tiny_chat, write_rows


def status_of(monkeypatch, command):
    monkeypatch.setattr(front, "app", command)
    with pytest.raises(SystemExit) as end:
        front.main()
    return end.value.code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "hybridopt: a/b: No space left on device; make"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "hybridopt: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "c"), "hybridopt: c: Permission denied"),
    ],
)
def test_what_the_system_cannot_do_is_one_line(error, said, monkeypatch):
    def command(**_):
        raise error

    assert status_of(monkeypatch, command).startswith(said)


@pytest.mark.parametrize("kind", [HybridOptError, lambda said: OSError(errno.ENOENT, "No such file", said)])
def test_control_characters_of_names_do_not_command_the_terminal(kind, monkeypatch):
    def command(**_):
        raise kind("te\x1b[2Jxt\nand more")

    said = status_of(monkeypatch, command)
    assert "te\\x1b[2Jxt\nand more" in said


def test_lines_of_a_run_show_control_characters_as_numbers(capsys):
    _say(Console(), "not used: te\x1b[2Jxt")
    assert capsys.readouterr().out == "not used: te\\x1b[2Jxt\n"


def test_an_error_of_a_library_is_not_hidden(monkeypatch):
    def command(**_):
        raise OSError("a fault of ours")

    monkeypatch.setattr(front, "app", command)
    with pytest.raises(OSError, match="a fault of ours"):
        front.main()


def test_ctrl_c_before_and_after_the_command_is_one_line(monkeypatch, capsys):
    def command(**_):
        raise KeyboardInterrupt

    assert status_of(monkeypatch, command) == 130
    assert capsys.readouterr().err == "hybridopt: interrupted\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_a_terminal_has_not_are_shown_as_numbers(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(front, "app", lambda **_: print("тест ä", flush=True))
    front.main()
    assert written.getvalue() == "тест ä\n".encode(encoding, "backslashreplace")


def test_init_writes_utf_8_whatever_the_terminal_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny_chat("model", layers=1)
    write_rows("тест.jsonl")
    given = ["init", "model", "тест.jsonl", "--gpu", "1GiB", "--set", "method=adamw", "--set", "train.lr=0.01"]
    done = CliRunner(charset="latin-1").invoke(front.app, given)
    assert done.exit_code == 0 and "тест.jsonl" in done.stdout_bytes.decode()
