"""Ctrl-C at every moment of a command: one line, status 130, no traceback, and nothing half done."""

import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hybridopt.cli.main import app
from hybridopt.training.running import finish as finishing
from hybridopt.training.running import prepare as preparing
from hybridopt.training.running import train as carrying

STATUS = 128 + signal.SIGINT
QUICK = ("--gpu", "1GiB", "--set", "method=adamw", "--set", "train.lr=0.01", "--set", "train.max_steps=2")


def pressed(monkeypatch, module, name):
    """Let Ctrl-C be pressed when a function is called, which otherwise does what it always does."""
    real = getattr(module, name)

    def function(*arguments, **named):
        signal.raise_signal(signal.SIGINT)
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, function)


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


COMMANDS = [
    ("policies", "hybridopt.core.registry", "names", ()),
    ("rate", "hybridopt.policy.batch_rates", "lr_for_batch", ("1e-3", "--batch", "8", "--to", "16")),
    ("inspect", "hybridopt.saving.inspection", "is_saved", (".",)),
    ("merge", "hybridopt.saving.merging.merge", "merge", (".", "-o", "merged")),
    ("plan", "hybridopt.planning.subject.source", "subject_of", ("gpt2", "--gpu", "4GiB")),
    ("doctor", "hybridopt.cli.doctor.examine", "examine", ()),
]


@pytest.mark.parametrize(("command", "module", "name", "arguments"), COMMANDS)
def test_every_command_ends_with_one_line(command, module, name, arguments, place, monkeypatch):
    pressed(monkeypatch, __import__(module, fromlist=[name]), name)
    done = run(command, *arguments)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (STATUS, "hybridopt: interrupted"), done.output
    assert [path.name for path in place.iterdir()] == ["chats.jsonl"]


@pytest.mark.parametrize("moment", ["check_weights", "read", "chosen_for"])
def test_before_a_run_begins_nothing_is_written(moment, model, place, monkeypatch):
    pressed(monkeypatch, preparing, moment)
    done = run("train", model, "chats.jsonl", *QUICK)
    assert done.exit_code == STATUS
    assert done.output.splitlines()[-1] == "Interrupted: nothing is loaded, and nothing written."
    assert not Path("out").exists()


def test_while_the_model_is_loaded_it_ends_at_once_and_may_begin_again(model, place, monkeypatch):
    with monkeypatch.context() as patch:
        pressed(patch, carrying, "load_model")
        done = run("train", model, "chats.jsonl", *QUICK)
    assert (done.exit_code, done.output.splitlines()[-1]) == (STATUS, "Interrupted before the first checkpoint.")
    assert "step 1/2" not in done.output
    assert run("train", model, "chats.jsonl", *QUICK).exit_code == 0


def test_a_result_that_is_being_saved_is_saved_and_nothing_is_made_after_it(model, place, monkeypatch):
    with monkeypatch.context() as patch:
        pressed(patch, finishing, "save")
        patch.setattr(finishing, "_merge", lambda *_: pytest.fail("it was to end"))
        done = run("train", model, "chats.jsonl", *QUICK, "--set", "method.lora=4", "--set", "output.merge=true")
    assert done.exit_code == STATUS and "Traceback" not in done.output
    told = "Ctrl-C: training is done and its result is being saved, then the run ends; once more ends it at once"
    assert told in done.output.splitlines() and "Everything lies in out" in done.output
    assert all(Path("out", name).is_file() for name in ("adapter_model.safetensors", "report.html"))
    assert "holds a finished run" in str(run("train", model, "chats.jsonl", *QUICK).exception)


def test_after_that_it_ends_at_once_and_says_where_the_model_is(model, place, monkeypatch):
    pressed(monkeypatch, finishing, "_merge")
    done = run("train", model, "chats.jsonl", *QUICK, "--set", "method.lora=4", "--set", "output.merge=true")
    assert (done.exit_code, done.output.splitlines()[-1]) == (STATUS, "Interrupted. The trained model lies in out")
    assert sorted(path.name for path in Path("out").glob("merged*")) == []


def test_an_evaluation_after_the_last_step_ends_at_once_and_the_run_can_be_gone_on_with(model, place, monkeypatch):
    more = ("--set", "data.eval=0.25", "--set", "train.eval_every=5")
    with monkeypatch.context() as patch:
        pressed(patch, carrying, "_evaluated")
        done = run("train", model, "chats.jsonl", *QUICK, *more)
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        STATUS,
        "Interrupted. Go on with: hybridopt train out/run.yaml --resume",
    )
    again = run("train", "out/run.yaml", "--resume")
    assert again.exit_code == 0 and "best eval loss" in again.output
