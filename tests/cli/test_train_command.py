"""`hybridopt train`: what it prints, where it ends, and with which status."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from hybridopt import HybridOptError
from hybridopt.cli import train as command
from hybridopt.cli.main import app
from hybridopt.training.running import train as carrying

pytestmark = pytest.mark.slow

QUICK = ["--gpu", "1GiB"]
QUICK += [
    x for each in ("method=adamw", "train.lr=0.01", "train.batch=4", "train.max_steps=3") for x in ("--set", each)
]


def run(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def refused(*arguments):
    done = run(*arguments)
    assert isinstance(done.exception, HybridOptError), done.output
    return str(done.exception)


def test_from_a_file_to_a_model_and_the_commands_to_go_on(model, place):
    done = run(model, "chats.jsonl", "-o", "out", *QUICK, "--set", "data.eval=0.25")
    assert done.exit_code == 0, done.exception
    lines = done.output.splitlines()
    assert any(line.startswith("Loading the model, then training (memory: now/peak/planned") for line in lines)
    assert any("It fits: " in line for line in lines) and any(line.startswith("step 3/3") for line in lines)
    assert any(line.startswith("3 steps; best eval loss ") for line in lines)
    (peak,) = (line for line in lines if line.startswith("Peak memory: "))
    assert peak.endswith("planned" if torch.cuda.is_available() else "for a GPU, with what CUDA itself takes there")
    assert lines[-3:] == ["  hybridopt chat out", "  vllm serve out", "  hybridopt inspect out"]
    there = {path.name for path in (place / "out").iterdir()}
    assert there > {
        "run.yaml",
        "plan.json",
        "log.jsonl",
        "report.html",
        "README.md",
        "model.safetensors",
        "config.json",
    }
    plan = json.loads((place / "out" / "plan.json").read_text())
    assert plan["planned"]["fits"] and plan["measured"]["state_bytes"] == plan["planned"]["state_bytes"]
    assert plan["measured"]["weights_bytes"] == plan["planned"]["weights_bytes"]
    assert {"name", "role", "tag", "bytes"} <= plan["tensors"][0].keys()


def test_adapters_are_merged_where_that_is_asked(model, place):
    settings = ("--set", "method.lora=4", "--set", "output.merge=true", "--set", "output.push=a/b")
    done = run(model, "chats.jsonl", "-o", "out", *QUICK, *settings)
    assert "The merged model lies in out/merged, in float32" in done.output
    assert f"vllm serve {model} --enable-lora --lora-modules trained=out --max-lora-rank 8" in done.output
    assert isinstance(done.exception, HybridOptError) and "a/b could not be uploaded" in str(done.exception)
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(place / "out" / "merged").dtype == torch.float32  # as the base
    assert (place / "out" / "adapter_model.safetensors").exists()


def test_a_dry_run_writes_nothing_and_a_file_of_it_trains(model, place):
    done = run(model, "chats.jsonl", *QUICK, "--dry-run")
    assert done.exit_code == 0 and "This was a dry run" in done.output
    assert [path.name for path in place.iterdir()] == ["chats.jsonl"]
    (place / "run.yaml").write_text(f"model: {model}\ndata: chats.jsonl\n")
    assert run("run.yaml", *QUICK, "-o", "here").exit_code == 0
    assert (place / "here" / "model.safetensors").exists()
    assert run("here/run.yaml", "--set", "train.lr=0.02", "-o", "there").exit_code == 0
    assert "is one too many" in refused("run.yaml", "chats.jsonl")


def test_a_dry_run_plans_where_a_run_is_finished_and_says_what_the_run_itself_needs(model, place):
    (place / "out").mkdir()
    (place / "out" / "run.yaml").write_text(f"model: {model}\ndata: chats.jsonl\n")
    (place / "out" / "plan.json").write_text(json.dumps({"measured": {}}))
    assert "holds a finished run" in refused(model, "chats.jsonl", "-o", "out", *QUICK)
    done = run(model, "chats.jsonl", "-o", "out", *QUICK, "--dry-run")
    assert done.exit_code == 0 and "It fits: " in done.output
    assert done.output.splitlines()[-2:] == [
        "This was a dry run: nothing is loaded, and nothing written.",
        "The run itself is refused where it would be written: out holds a finished run; give another folder: -o OUT",
    ]
    assert "is finished" in refused(model, "chats.jsonl", "-o", "out", *QUICK, "--dry-run", "--resume")
    (place / "out" / "plan.json").unlink()
    (place / "out" / "config.json").write_text("{}")
    assert "holds a model already" in run(model, "chats.jsonl", "-o", "out", *QUICK, "--dry-run").output


def test_shards_of_one_process_name_the_command_that_starts_several(model, place, monkeypatch):
    words = ["train", str(model), "chats.jsonl", *QUICK, "--dry-run", "--set", "parallel=fsdp"]
    monkeypatch.setattr(sys, "argv", ["hybridopt", *words])
    done = run(*words[1:])
    assert done.exit_code == 0, done.exception
    assert re.search(
        rf"to share it: torchrun --nproc-per-node \d+ -m hybridopt {re.escape(shlex.join(words))}", done.output
    )


def test_what_does_not_fit_ends_with_a_cure_unless_it_is_forced(model, place):
    tight = ("--gpu", "641MiB", "--set", "margin=0")
    assert "does not fit into" in refused(model, "chats.jsonl", *QUICK, *tight)
    done = run(model, "chats.jsonl", *QUICK, *tight, "--force")
    assert done.exit_code == 0 and "It does not fit: " in done.output


TYPED = [("train", "--gpu", "4900"), ("train", "--task", "dpp"), ("init", "--gpu", "rtx 1")]


@pytest.mark.parametrize(("name", "option", "value"), TYPED)
def test_errors_name_the_option_that_was_typed(name, option, value, place):
    done = CliRunner().invoke(app, [name, "model", "chats.jsonl", option, value])
    assert isinstance(done.exception, HybridOptError) and str(done.exception).startswith(f"{option} {value}: ")


def test_short_memory_is_told_with_the_least_change(model, place, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(carrying, "_trained", short)
    text = refused(model, "chats.jsonl", *QUICK)
    told = r"memory is short, though \d\.\d+ GiB were planned: CUDA out of memory\. Tried to allocate 2\.00 GiB\.;"
    assert re.search(told, text)
    assert "more" not in text.split(";")[0]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . un"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
    ],
    ids=["of the system", "of torch.save", "of safetensors", "of a limit"],
)
def test_a_full_disk_is_told_with_what_to_do(error, model, place, monkeypatch):
    def full(prepared, *_):
        (prepared.place.checkpoints / "checkpoint-2").mkdir()
        (prepared.place.checkpoints / "checkpoint-2" / "trainer_state.json").touch()
        raise error

    monkeypatch.setattr(carrying, "_trained", full)
    text = refused(model, "chats.jsonl", *QUICK, "-o", "my out")
    assert "my out could not be written to, as the disk is full" in text
    assert text.endswith("go on by: hybridopt train 'my out/run.yaml' --resume")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(5, "Input/output error", "a/b"),
            "a/b could not be read or written, as the system says: Input",
        ),
        (SafetensorError("I/O error: Stale file handle (os error 116)"), "out could not be written to, as the system"),
    ],
)
def test_a_disk_that_fails_is_told(error, said, model, place, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(carrying, "_trained", fails)
    text = refused(model, "chats.jsonl", *QUICK)
    assert text.startswith(said) and text.endswith("see to that, and start again")


def test_a_folder_that_cannot_be_is_refused_before_reading(place):
    (place / "model").mkdir()
    (place / "link").symlink_to("nowhere")
    assert "is a link to nowhere, which is not there" in refused("model", "chats.jsonl", "-o", "link")
    assert refused("model", "chats.jsonl", "-o", "").endswith("output.folder='' is not allowed; give a text")
    assert "has a name too long" in refused("model", "chats.jsonl", "-o", "x" * 300)


def test_a_gradient_that_is_no_number_is_told_by_its_parameter(model, place):
    settings = ("--set", "train.lr=100000", "--set", "train.clip=null", "--set", "train.max_steps=20")
    text = refused(model, "chats.jsonl", *QUICK, *settings)
    assert "the gradient of '" in text and "is not finite at step" in text
    assert text.endswith("Lower train.lr, or set train.clip")


def test_ctrl_c_ends_with_its_status_and_says_how_to_go_on(model, place, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(carrying, "_trained", pressed)
    done = run(model, "chats.jsonl", *QUICK, "-o", "an [bold] out")
    assert done.exit_code == 130 and "Interrupted before the first checkpoint" in done.output
    begun = place / "an [bold] out" / "checkpoints" / "checkpoint-2"
    begun.mkdir()
    assert "ended before its first checkpoint; start again" in refused("an [bold] out/run.yaml", "--resume")
    assert run(model, "chats.jsonl", *QUICK, "-o", "an [bold] out").exit_code == 130 and not begun.exists()
    begun.mkdir()
    (begun / "trainer_state.json").touch()
    done = run("an [bold] out/run.yaml", "--resume", *QUICK[:2])
    assert done.exit_code == 130
    assert "Go on with: hybridopt train 'an [bold] out/run.yaml' --resume" in done.output


def test_what_is_missing_is_named(model, place, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "trl" else True)
    text = refused(model, "chats.jsonl", *QUICK)
    assert text.startswith('training needs trl, which is not installed; pip install "hybridopt[train]"')


TYPOS = {
    "a key": (["train", "model", "chats.jsonl", "--set", "train.btach=4"], "did you mean train.batch?"),
    "a model": (["train", "modle", "chats.jsonl"], "there is no folder"),
    "a near model": (
        ["train", "modle", "chats.jsonl"],
        "on the hub (org/name); did you mean model?",
    ),
    "data": (["train", "model", "chat.jsonl"], "there is no chat.jsonl; did you mean chats.jsonl?"),
    "data to evaluate with": (["train", "model", "chats.jsonl", "--set", "data.eval=c.jsonl"], "data.eval: there is"),
    "nothing to resume": (["train", "model", "chats.jsonl", "--resume"], "holds no run that has begun"),
    "a folder": (["train", "model", "chats.jsonl", "-o", "chats.jsonl"], "is a file; give a folder"),
    "a model for init": (["init", "modle", "chats.jsonl"], "did you mean model?"),
}


def test_typos_are_told_without_torch(place):
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    code = (
        "import sys\n"
        "from hybridopt.cli.main import main\n"
        f"for words in {[words for words, _ in TYPOS.values()]!r}:\n"
        "    sys.argv[1:] = words\n"
        "    try: main()\n"
        "    except SystemExit as end: print(end.code)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    *answers, torch_there = done.stdout.splitlines()
    assert torch_there == "False" and len(answers) == len(TYPOS)
    for answer, (name, (_, say)) in zip(answers, TYPOS.items(), strict=True):
        assert say in answer, name


def test_the_help_has_examples():
    done = CliRunner().invoke(app, ["train", "--help"])
    assert "hybridopt train ./my-model chats.jsonl -o out" in done.output and "--allow-code" in done.output
