"""From a file of examples to a model that others load: the whole way, by the commands that users type."""

import argparse
import csv
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from hybridopt.cli.main import app
from hybridopt.training.config.reading import read_run, run_of
from hybridopt.training.running.prepare import prepare
from support.pages import blocks
from support.paths import ROOT
from support.tiny_chat import rows, save_tiny_chat, write_rows

pytestmark = pytest.mark.slow

MAIN = "import sys; from hybridopt.cli.main import main; sys.argv[1:] = {!r}; main()"
LEARNS = ("train.lr=0.02", "train.schedule=constant", "train.warmup=0", "train.batch=4", "train.accumulate=1")


def sets(*pairs):
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a tiny model and 60 chats, in which commands are typed."""
    monkeypatch.chdir(tmp_path)
    save_tiny_chat("my-model", layers=1)
    write_rows("chats.jsonl", "messages", 60)
    return tmp_path


def typed(line, input=None, status=0):
    """Run a line as a shell would, in this process; return what it prints to stdout."""
    words, _, target = line.partition(" > ")
    done = CliRunner().invoke(app, shlex.split(words)[1:], input=input)
    assert done.exit_code == status, f"{line}: {done.output}\n{done.exception!r}"
    if target:
        with open(target, "w") as file:
            file.write(done.stdout)
    return done.stdout


def killed(words, when):
    """Run a command in a process of its own and kill it as soon as a path is there."""
    child = subprocess.Popen([sys.executable, "-c", MAIN.format(words)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    while child.poll() is None and not when.exists():
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def loss(folder, text):
    """The loss of a model in a folder on a text."""
    model, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = words(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=tokens, labels=tokens).loss.item()


def test_chats_train_adapters_through_a_kill_and_back(home):
    lora = "{r: 8, modules_to_save: [lm_head]}"  # whose random weights adapters alone would hardly make up for
    method = f"method={{policy: frugal, options: {{density: 0.5}}, lora: {lora}, quantization: nf4}}"
    more = shlex.join(sets(method, *LEARNS, "train.max_steps=40", "train.save_every=5", "data.eval=0.1"))
    typed(f"hybridopt init ./my-model chats.jsonl {more} > run.yaml")
    before = {path.name for path in home.iterdir()}
    told = typed("hybridopt train run.yaml --dry-run")
    assert "chats.jsonl" in told and "40 steps in all" in told and "It fits" in told
    assert {path.name for path in home.iterdir()} == before  # nothing is written

    killed(["train", "run.yaml"], home / "out" / "checkpoints" / "checkpoint-10")
    assert not (home / "out" / "adapter_model.safetensors").exists()
    typed("hybridopt train run.yaml --resume")
    steps = [json.loads(line)["step"] for line in (home / "out" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 40
    assert (home / "out" / "report.html").is_file()
    assert "library_name: peft" in (home / "out" / "README.md").read_text()

    typed("hybridopt merge out -o merged --dtype float32")
    model, words = AutoModelForCausalLM.from_pretrained("merged"), AutoTokenizer.from_pretrained("merged")
    chat = rows("messages", 60)[3]["messages"]
    answers = chat[1]["content"] * 3
    assert loss("merged", answers) < loss("my-model", answers) - 2
    given = words.apply_chat_template(chat[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        said = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
    answer = words.decode(said, skip_special_tokens=True)
    assert answer and set(answer) <= set("redbluegreenwhite"), answer  # the letters of the answers that it has seen
    assert "merged" in typed("hybridopt inspect merged")


def test_the_lines_of_the_readme(home):
    (block,) = [b for b in blocks(ROOT / "README.md", "bash") if "hybridopt init" in b.text]
    lines = [line.removeprefix('pip install -e ".[train]" && ') for line in block.text.splitlines()]
    assert [line.split()[1] for line in lines] == ["doctor", "plan", "init", "train", "train", "chat"]
    for line in lines:
        typed(line, input="colour of thing 3?\n")
    AutoModelForCausalLM.from_pretrained("out")


def test_preference_pairs_through_dpo(home):
    write_rows("pairs.jsonl", "preference", 200)
    more = shlex.join(sets(*LEARNS, "train.max_steps=30", "method={policy: adamw, lora: 8}"))
    typed(f"hybridopt train ./my-model pairs.jsonl {more}")
    records = [json.loads(line) for line in (home / "out" / "log.jsonl").read_text().splitlines()]
    margins = [record["rewards/margins"] for record in records if "rewards/margins" in record]
    assert margins[0] == 0 and margins[-1] > 1
    assert (home / "out" / "adapter_model.safetensors").is_file()


def test_a_table_through_classify(home):
    with open("letters.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ("text", "label"))
        writer.writeheader()
        writer.writerows(rows("labels", 60))
    more = shlex.join(sets(*LEARNS, "train.epochs=4", "data.eval=0.2", "method=adamw"))
    typed(f"hybridopt train ./my-model letters.csv {more}")
    model, words = AutoModelForSequenceClassification.from_pretrained("out"), AutoTokenizer.from_pretrained("out")
    with torch.no_grad():
        outputs = [
            model(**words(row["text"], return_tensors="pt")).logits.argmax().item() for row in rows("labels", 4)
        ]
    assert [model.config.id2label[i] for i in outputs] == [row["label"] for row in rows("labels", 4)]


def test_further_pretraining_takes_the_first_way_below_a_memory_limit(home):
    (home / "book.txt").write_text(inspect.getsource(argparse)[:30_000])
    before = loss("my-model", "the arguments of the parser")
    roomy = prepare(run_of("my-model", ["book.txt"], ["gpu=24GiB", *LEARNS])).chosen.estimate
    assert roomy.request.policy == "adamw"
    limit = f"gpu={(roomy.peak_bytes >> 10) - 1}KiB"
    typed(f"hybridopt train ./my-model book.txt {shlex.join(sets(limit, 'margin=0', *LEARNS[1:], 'train.lr=3e-3'))}")
    run = read_run(home / "out" / "run.yaml")
    assert run.task == "text" and run.data.packing is True
    planned = json.loads((home / "out" / "plan.json").read_text())["planned"]
    assert planned["peak_bytes"] < roomy.peak_bytes and planned["fits"]
    way, freest = planned["request"], roomy.request.as_dict()
    assert any(way[key] != freest[key] for key in ("policy", "options", "release", "checkpointing"))
    assert (run.method.policy, run.method.release) == (way["policy"], way["release"])
    assert loss("out", "the arguments of the parser") < before - 1
