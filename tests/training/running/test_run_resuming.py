"""A run goes on from its last checkpoint as if it had never ended, and only as it began."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from hybridopt import HybridOptError
from hybridopt.training.running.prepare import prepare
from hybridopt.training.running.run_folder import Place
from hybridopt.training.running.train import train
from hybridopt.training.watching.log import LogFile
from support.tiny_chat import save_tiny_chat, write_rows

pytestmark = pytest.mark.slow

STEPS = ("train.max_steps=14", "train.save_every=3", "method.policy=frugal", "data.eval=0.25", "train.eval_every=4")
STEPS += ("train.schedule=cosine", "train.warmup=0.7")  # which goes on when a run is ended
ADAPTERS = ("method.lora={r: 4, dropout: 0.1}", "method.quantization=nf4")


def weights(folder):
    found = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    assert found
    return {name: tensor for each in found for name, tensor in each.items()}


def assert_equal(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def interrupted(monkeypatch, step):
    """Let Ctrl-C be pressed while the record of a step is written."""
    append = LogFile.append

    def pressed(self, record):
        append(self, record)
        if record.get("step") == step and "loss" in record:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LogFile, "append", pressed)


@pytest.mark.parametrize("more", [(), ADAPTERS], ids=["all weights", "adapters on nf4"])
def test_a_run_that_was_ended_goes_on_bit_by_bit(more, workshop, monkeypatch):
    train(prepare(workshop.run(*STEPS, *more, out="whole")))
    with monkeypatch.context() as patch:
        interrupted(patch, 7)
        stopped = train(prepare(workshop.run(*STEPS, *more)))
    assert stopped.stopped and stopped.steps in (7, 8)
    assert not list((workshop.folder / "out").glob("*.safetensors"))
    result = train(prepare(workshop.run(*STEPS, *more), resume=True))
    assert (result.stopped, result.steps) == (False, 14)
    assert_equal(workshop.folder / "out", workshop.folder / "whole")
    whole, gone_on = ([r["loss"] for r in workshop.log(out) if "loss" in r] for out in ("whole", "out"))
    assert whole == gone_on


def test_a_run_that_was_killed_goes_on_bit_by_bit(workshop):
    train(prepare(workshop.run(*STEPS, out="whole")))
    run = workshop.run(*STEPS)
    from hybridopt.training.config.writing import to_yaml

    (workshop.folder / "run.yaml").write_text(to_yaml(run))
    main = "from hybridopt.cli.main import main; import sys; sys.argv[1:] = ['train', 'run.yaml']; main()"
    command = [sys.executable, "-c", main]
    child = subprocess.Popen(command, cwd=workshop.folder, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while child.poll() is None and not (workshop.folder / "out" / "checkpoints" / "checkpoint-6").exists():
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    train(prepare(run, resume=True))
    assert_equal(workshop.folder / "out", workshop.folder / "whole")


@pytest.fixture
def begun(workshop, monkeypatch):
    """A run with a checkpoint that is not finished."""
    with monkeypatch.context() as patch:
        interrupted(patch, 4)
        train(prepare(workshop.run(*STEPS)))
    return workshop


def test_a_run_goes_on_only_as_it_began(begun):
    refused = {
        "train.lr=0.02": "train.lr is 0.02 now, and was 0.01 when the run began",
        "train.batch=2": "train.batch is 2 now, and was 4",
        "method.lora=8": r"method.lora is LoraSettings\(r=8.* now, and was None",
        "train.seed=1": "train.seed is 1 now, and was 0",
        "data.max_length=100": "data.max_length is 100 now, and was 256",
    }
    for change, why in refused.items():
        with pytest.raises(HybridOptError, match=why):
            prepare(begun.run(*STEPS, change), resume=True)
    said = (*STEPS, "method.policy=auto", "method.lora=8")  # the planner chose, but not the adapters
    with pytest.raises(HybridOptError, match=r"method.lora is LoraSettings\(r=8.* now, and was None"):
        prepare(begun.run(*said), resume=True)
    with pytest.raises(HybridOptError, match="holds a run that is not finished; go on with it by --resume"):
        prepare(begun.run(*STEPS))
    changed = begun.run(*STEPS, "train.log_every=2", "train.keep=5", "gpu=2GiB", "method.policy=frugal")
    assert prepare(changed, resume=True).run.train.keep == 5
    same = save_tiny_chat(begun.folder / "same", layers=1)
    assert "other versions" not in "".join(prepare(begun.run(*STEPS), resume=True).told)
    with pytest.raises(HybridOptError, match="model is '.*same' now, and was '.*model' when the run began"):
        prepare(begun.run(*STEPS, model=same), resume=True)
    write_rows(begun.folder / "messages.jsonl", count=17)
    with pytest.raises(HybridOptError, match=r"messages.jsonl has SHA-256 [0-9a-f]{64} now, and the run began with"):
        run = begun.run(*STEPS, count=17)
        prepare(run, resume=True)


def test_a_run_goes_on_with_its_own_weights_and_template(workshop, monkeypatch):
    workshop.model = save_tiny_chat(workshop.folder / "model", layers=1)
    with monkeypatch.context() as patch:
        interrupted(patch, 4)
        train(prepare(workshop.run(*STEPS)))
    path = workshop.folder / "out" / "run.yaml"
    path.write_text(path.read_text().replace(torch.__version__, "1.0"))
    told = "".join(prepare(workshop.run(*STEPS), resume=True).told)
    assert " (it was 1.0); it may not be the same to the bit" in told
    save_tiny_chat(workshop.model, layers=1, seed=1)
    with pytest.raises(HybridOptError, match="--resume: weights of digest .* now, and the run began with"):
        train(prepare(workshop.run(*STEPS), resume=True))
    save_tiny_chat(workshop.model, layers=1)
    template = workshop.model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(HybridOptError, match="--resume: template of digest"):
        train(prepare(workshop.run(*STEPS), resume=True))


def test_there_must_be_something_to_go_on_with(workshop):
    with pytest.raises(HybridOptError, match="^--resume: /.* holds no run that has begun; .* or go to the directory"):
        prepare(workshop.run(*STEPS), resume=True)
    train(prepare(workshop.run("train.max_steps=1")))
    with pytest.raises(HybridOptError, match="is finished; to train on, give its result as MODEL"):
        prepare(workshop.run("train.max_steps=1"), resume=True)
    with pytest.raises(HybridOptError, match="holds a finished run; give another folder: -o OUT"):
        prepare(workshop.run("train.max_steps=1"))


def test_a_checkpoint_that_is_not_whole_is_passed_over(begun):
    checkpoints = begun.folder / "out" / "checkpoints"
    newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    (newest / "optimizer.pt").unlink()
    train(prepare(begun.run(*STEPS, out="whole")))
    train(prepare(begun.run(*STEPS), resume=True))
    assert_equal(begun.folder / "out", begun.folder / "whole")


def test_two_runs_do_not_share_a_folder(workshop):
    first = prepare(workshop.run("train.max_steps=1"))
    with first.place.held(), pytest.raises(HybridOptError, match="is in use by another run"):
        train(prepare(workshop.run("train.max_steps=1")))
    train(first)


def test_what_a_run_began_with_is_read_once(tmp_path):
    place = Place(tmp_path)
    place.run.write_text("{model: m, data: d.jsonl, made_with: {data: [1]}}")
    run, notes = place.before
    place.run.unlink()
    assert place.before == (run, notes) and (run.model, notes) == ("m", {"data": [1]})
