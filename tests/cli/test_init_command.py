"""`hybridopt init` prints a run.yaml that `train` reads: the method by the plan, and what else fits."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.training.config.reading import read_run
from support.tiny_chat import save_tiny_chat

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model whose weights cannot be read, and a file of chats."""
    found = tmp_path_factory.mktemp("init")
    save_tiny_chat(found / "model")
    weights = found / "model" / "model.safetensors"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (found / "chats.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(4)))
    return found


def init(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def test_what_is_printed_is_a_run_with_everything_settled(place):
    done = init(place / "model", place / "chats.jsonl", "--gpu", "24GiB", "--set", "train.batch=2")
    assert done.exit_code == 0, done.output
    run = read_run(done.stdout)
    assert (run.task, run.data.format, run.data.max_length, run.gpu) == ("sft", "messages", 256, "24GiB")
    assert (run.method.policy, run.train.batch, run.train.lr, run.train.dtype) == ("adamw", 2, 1e-4, "fp32")
    assert run.data.train == (str(place / "chats.jsonl"),)
    assert "# Other ways that fit" in done.stdout and "2 x 256 tokens" in done.stdout
    assert "Method: AdamW" in done.stderr and "read as messages" in done.stderr
    others = [line for line in done.stdout.splitlines() if line.startswith("#   method: ")]
    assert len(others) == 3
    for line in others:
        assert read_run(f"model: m\ndata: d\n{line.removeprefix('#   ')}").method.policy in line


def test_a_method_that_is_given_stays(place):
    done = init(place / "model", place / "chats.jsonl", "--gpu", "1GiB", "--set", "method={policy: frugal, lora: 4}")
    assert done.exit_code == 0, done.output
    run = read_run(done.stdout)
    assert run.method.policy == "frugal" and run.method.lora.r == 4 and run.train.lr == 3e-3
    assert "Other ways" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        (["nowhere", "chats.jsonl"], "there is no folder .*nowhere"),
        (["model", "none.jsonl"], "none.jsonl"),
        (["model", "chats.jsonl", "--set", "train.batchs=2"], r"--set train\.batchs=2: .*did you mean train\.batch"),
        (["model", "chats.jsonl", "--gpu", "rtx4091"], "did you mean RTX 4090"),
        (["model", "chats.jsonl", "--set", "task=grpo"], "reward"),
        (["model", "chats.jsonl", "--gpu", "100MiB"], "nothing fits into"),
    ],
)
def test_bad_input_is_told_and_prints_nothing(place, monkeypatch, arguments, say):
    monkeypatch.chdir(place)
    done = init(*arguments)
    assert done.stdout == ""
    with pytest.raises(HybridOptError, match=say):
        raise done.exception


def test_help_and_typos_wait_for_no_torch():
    code = "import sys\nfrom hybridopt.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    print(end)\nprint('torch' in sys.modules)"
    for arguments, say in (["--help"], "Examples"), (["m", "d", "--set", "lr=1"], "did you mean train.lr"):
        done = subprocess.run([sys.executable, "-c", code, "init", *arguments], capture_output=True, text=True)
        assert say in done.stdout and done.stdout.split()[-1] == "False", done.stdout + done.stderr
