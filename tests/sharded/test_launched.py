"""torchrun and accelerate launch with two processes: the examples, and `hybridopt train`."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from hybridopt import HybridOptError
from hybridopt.training.config.reading import resolved, run_of
from hybridopt.training.running.prepare import prepare
from hybridopt.training.running.train import train
from support.paths import ROOT
from support.tiny_chat import save_tiny_chat, write_rows

pytestmark = pytest.mark.slow

SETS = ["gpu=8GiB", "method=adamw", "train.max_steps=6", "train.save_every=3", "train.lr=0.01", "train.dtype=fp32"]
SETS += ["train.batch=2", "train.accumulate=1", "data.eval=0.1", "train.eval_every=null", "output.folder=out"]
TORCHRUN = ["torch.distributed.run", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def sets(*more):
    return [word for text in (*SETS, *more) for word in ("--set", text)]


def launched(launcher, folder, port, jobs):
    """Run jobs on two processes; return for each job what the two have printed, and their statuses."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = [str(ROOT / "tests" / "support" / "launched.py"), "jobs.json"]
    at = [f"--{'main_process_port' if launcher is ACCELERATE else 'master-port'}={port}"]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    told = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}
    command = [sys.executable, "-m", *launcher, *at, *script]
    ended = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [[json.loads((folder / f"{n}-{rank}.json").read_text()) for rank in (0, 1)] for n in range(len(jobs))]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    save_tiny_chat(folder / "model", layers=1)
    write_rows(folder / "chats.jsonl", "messages", 60)
    write_rows(folder / "rank-0.jsonl", "messages", 60)
    return folder


@pytest.fixture(scope="module")
def by_torchrun(home):
    run = ["train", "../model", "../chats.jsonl"]
    jobs = [
        [str(ROOT / "examples" / "sharded.py")],
        [*run, *sets()],
        [*run, *sets("output.folder=short", "data.max_length=2")],
        ["train", "../model", "../rank-{rank}.jsonl", *sets("output.folder=apart")],
    ]
    return launched(TORCHRUN, home / "torchrun", 29611, jobs)


@pytest.fixture(scope="module")
def by_accelerate(home, by_torchrun):
    """Go on from the first checkpoint of the run of `by_torchrun`, as if it had been killed in its fifth step."""
    begun = home / "torchrun" / "out"
    shutil.copytree(begun, home / "begun", ignore=shutil.ignore_patterns("checkpoint-6"))
    (home / "begun" / "model.safetensors").unlink()
    plan = json.loads((begun / "plan.json").read_text()) | {"measured": None}
    (home / "begun" / "plan.json").write_text(json.dumps(plan))
    resumed = ["train", "../model", "../chats.jsonl", *sets("output.folder=../begun"), "--resume"]
    return launched(ACCELERATE, home / "accelerate", 29612, [[str(ROOT / "examples" / "replicated.py")], resumed])


def losses(text):
    return [float(x) for x in re.findall(r"loss (\d+\.\d+)", text)]


@pytest.mark.parametrize("launcher", ["by_torchrun", "by_accelerate"])
def test_the_example_learns_and_saves(launcher, request, home):
    first, other = request.getfixturevalue(launcher)[0]
    assert first["status"] == other["status"] == 0 and other["printed"] == ""
    assert losses(first["printed"])[-1] < losses(first["printed"])[0] - 0.5


@pytest.mark.parametrize("example", ["sharded", "replicated"])
def test_the_examples_are_short(example):
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) < 80


def test_one_process_prints_and_writes_for_all(by_torchrun, home):
    first, other = by_torchrun[1]
    assert first["status"] == other["status"] == 0 and other["printed"] == ""
    assert "6 steps in all (batch 2 x accumulate 1 x 2 processes)" in first["printed"]
    there = {path.name for path in (home / "torchrun" / "out").iterdir()}
    assert there > {"run.yaml", "plan.json", "log.jsonl", "report.html", "README.md", "model.safetensors"}
    steps = [json.loads(x) for x in (home / "torchrun" / "out" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in steps if "loss" in x] == [1, 2, 3, 4, 5, 6]
    assert resolved(home / "torchrun" / "out" / "run.yaml")[1]["processes"] == 2


def test_two_processes_learn_what_one_does_from_batches_twice_as_large(by_torchrun, home, monkeypatch):
    monkeypatch.chdir(home / "torchrun")
    run = run_of("../model", ["../chats.jsonl"], [*SETS, "output.folder=alone", "train.batch=4"])
    train(prepare(run))
    two, one, before = (AutoModelForCausalLM.from_pretrained(x).state_dict() for x in ("out", "alone", "../model"))
    moved = max((one[name] - before[name]).abs().max() for name in one)
    assert moved > 0.01
    for name, x in one.items():
        assert (two[name] - x).abs().max() < 0.02 * moved, name


def test_a_run_goes_on_to_the_same_bits(by_torchrun, by_accelerate, home):
    first, other = by_accelerate[1]
    assert first["status"] == other["status"] == 0 and other["printed"] == ""
    files = [folder / "model.safetensors" for folder in (home / "torchrun" / "out", home / "begun")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_goes_on_with_as_many_processes_only(by_torchrun, home, monkeypatch):
    monkeypatch.chdir(home / "torchrun")
    shutil.copytree("out", "part")
    plan = json.loads((home / "torchrun" / "part" / "plan.json").read_text()) | {"measured": None}
    (home / "torchrun" / "part" / "plan.json").write_text(json.dumps(plan))
    run = run_of("../model", ["../chats.jsonl"], [*SETS, "output.folder=part"])
    with pytest.raises(HybridOptError, match=r"1 processes now.*began with 2 .*torchrun --nproc-per-node 2 -m hybrid"):
        prepare(run, resume=True)


def test_what_is_refused_ends_all_and_is_told_once(by_torchrun, home):
    first, other = by_torchrun[2]
    assert "none of the 54 examples is short enough" in first["status"] and other["status"] == 1
    assert other["printed"] == "" and not (home / "torchrun" / "short").exists()


def test_what_is_wrong_on_another_process_alone_is_told_with_its_rank(by_torchrun, home):
    first, other = by_torchrun[3]
    assert first["status"] == 1 and not (home / "torchrun" / "apart").exists()
    assert re.search(r"rank 1: data\.train: there is no .*rank-1\.jsonl", other["status"])


def test_a_world_that_cannot_be_is_refused():
    from hybridopt.core.world import World, world

    assert world({}) == world({"RANK": "0", "WORLD_SIZE": "1"}) == World() and World().leads
    assert world({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == World(3, 4, 1)
    with pytest.raises(HybridOptError, match="RANK=2 is not allowed with WORLD_SIZE=2"):
        world({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(HybridOptError, match="WORLD_SIZE='two' in the environment is no number"):
        world({"RANK": "0", "WORLD_SIZE": "two"})


@pytest.mark.parametrize("kind", [torch.distributed.DistBackendError, RuntimeError])
def test_a_process_that_has_gone_is_told_in_words(kind):
    from hybridopt.training.running.ranks import _in_words

    assert "was killed" in str(_in_words(kind("[../gloo/pair.cc:553] Connection closed by peer")))
    assert _in_words(ValueError("no")).args == ("no",)
