"""torchrun and accelerate launch with two processes: the examples, `hybridopt train`, and `HybridTrainer`."""

import json
import re
import shutil
import signal
import socket
import time
import warnings

import pytest
import torch
from safetensors.torch import load_file

from hybridopt import HybridOptError
from hybridopt.training.config.reading import resolved, run_of
from hybridopt.training.running.prepare import prepare
from support.paths import ROOT
from support.preloaded import Preloaded
from support.tiny_chat import save_tiny_chat, write_rows
from support.trained_on_ranks import BEGUN_BY_ONE, CELLS, gone_on

pytestmark = pytest.mark.slow

SETS = ["gpu=8GiB", "method=adamw", "train.max_steps=6", "train.save_every=3", "train.lr=0.01", "train.dtype=fp32"]
SETS += ["train.batch=3", "train.accumulate=1", "data.eval=0.1", "train.eval_every=null", "output.folder=out"]
OFTEN = ["parallel=fsdp", "train.save_every=1"]
LORA = ["method.lora=4", "method.quantization=nf4", "method.release=fused", "data.packing=true", "data.max_length=64"]
TORCHRUN, THREE = (["torch.distributed.run", "--nproc-per-node", number] for number in "23")
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]
SCRIPT = str(ROOT / "tests" / "support" / "launched.py")
TRAINER = str(ROOT / "tests" / "support" / "trained_on_ranks.py")
SECONDS = 300  # of a launcher
MODEL = "model.safetensors"


REWARD = "reward: 'support.rewards:capitals', num_generations: 4, max_completion_length: 8, beta: 0.1"
TASKS = {  # data, settings
    "dpo": ("preference", ()),
    "dpo-lora": ("preference", ("method.lora=4",)),
    "grpo": (
        "prompt",
        ("method.lora=4", "train.accumulate=2", "task=grpo", f"task_options={{{REWARD}}}"),
    ),
    "reward": ("preference", ("task=reward",)),
    "classify": ("labels", ()),
}


def command(folder, *more, data="chats"):
    words = (*SETS, f"output.folder={folder}", *more)
    sets = (word for text in words for word in ("--set", text))
    return ["train", "../model", f"../{data}.jsonl", *sets, "--allow-code"]


def of_tasks():
    """Return commands of all tasks, on shards and on replicas."""
    short = ("train.max_steps=2", "train.save_every=null", "data.eval=null")
    return [
        command(f"{name}-{parallel}", *settings, *short, f"parallel={parallel}", data=data)
        for name, (data, settings) in TASKS.items()
        for parallel in ("fsdp", "ddp")
    ]


def started(preloaded, launcher, folder, jobs, **told):
    """Start jobs in a new folder by a launcher; None: one process does them."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    if launcher is None:
        return preloaded.start([SCRIPT, "jobs.json"], folder, RANK="alone", **told)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    at = [f"--{'main_process_port' if launcher is ACCELERATE else 'master-port'}={port}"]
    return preloaded.start(["-m", *launcher, *at, SCRIPT, "jobs.json"], folder, ACCELERATE_USE_CPU="true", **told)


def launched(preloaded, launcher, folder, jobs):
    """Run jobs on processes; return for each what the first two printed and their statuses, and all warnings."""
    running = started(preloaded, launcher, folder, jobs)
    _, error = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, error[-3000:]
    said = [[json.loads((folder / f"{n}-{rank}.json").read_text()) for rank in (0, 1)] for n in range(len(jobs))]
    return said, error


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    save_tiny_chat(folder / "model", layers=2)
    write_rows(folder / "chats.jsonl", "messages", 60)
    write_rows(folder / "rank-0.jsonl", "messages", 60)
    for format in ("preference", "prompt", "labels"):
        write_rows(folder / f"{format}.jsonl", format, 16)
    return folder


@pytest.fixture(scope="module")
def preloaded(home):
    """Do alone, with batches twice as large or twice as many, what two processes will do."""
    jobs = [command("out", "train.batch=6"), command("adapters", *LORA, "train.accumulate=2"), [TRAINER]]
    made = Preloaded(home / "alone", jobs)
    assert [job["status"] for job in made.alone] == [0, 0, 0], made.alone
    yield made
    made.close()


@pytest.fixture(scope="module")
def by_torchrun(preloaded, home):
    apart = command("apart")
    apart[2] = "../rank-{rank}.jsonl"
    jobs = [
        [str(ROOT / "examples" / "sharded.py")],
        command("out"),
        command("short", "data.max_length=2"),
        apart,
        command("shards", "parallel=fsdp"),
        command("adapters", "parallel=fsdp", *LORA),
        *of_tasks(),
        [TRAINER],
    ]
    return launched(preloaded, TORCHRUN, home / "torchrun", jobs)


@pytest.fixture(scope="module")
def interrupted(preloaded, home):
    """Interrupt torchrun while its first process has written of step 2, and say what it ends with, and when."""
    jobs, folder = [command("stopped", *OFTEN)], home / "interrupted"
    running = started(preloaded, TORCHRUN, folder, jobs, AT="2", WHAT="waits")
    while not (folder / "reached").exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    begun = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=SECONDS)
    shutil.copytree(folder / "stopped", home / "others" / "stopped")
    return json.loads((folder / "0-0.json").read_text()), time.monotonic() - begun


@pytest.fixture(scope="module")
def killed(preloaded, home):
    """Let the first process be killed in step 5, and say what torchrun prints."""
    running = started(preloaded, TORCHRUN, home / "killed", [command("gone")], AT="4", WHAT="killed")
    _, error = running.communicate(timeout=SECONDS)
    return running.returncode, error


@pytest.fixture(scope="module")
def by_accelerate(preloaded, home, interrupted, killed):
    """Go on with what was interrupted, and with what was killed."""
    jobs = [
        [str(ROOT / "examples" / "replicated.py")],
        [*command("../killed/gone"), "--resume"],
        [*command("../interrupted/stopped", *OFTEN), "--resume"],
    ]
    return launched(preloaded, ACCELERATE, home / "accelerate", jobs)


@pytest.fixture(scope="module")
def by_others(preloaded, home, interrupted):
    """Go on alone with a copy of what two processes have begun, until that is killed in step 5; and then by three."""
    again = [[*command("../others/stopped", *OFTEN), "--resume"]]
    alone = started(preloaded, None, home / "one", again, AT="5", WHAT="killed")
    alone.communicate(timeout=SECONDS)
    assert alone.returncode == 256 - signal.SIGKILL
    return launched(preloaded, THREE, home / "three", again)[0][0]


def losses(text):
    return [float(x) for x in re.findall(r"loss (\d+\.\d+)", text)]


@pytest.mark.parametrize("launcher", ["by_torchrun", "by_accelerate"])
def test_the_example_learns_and_saves(launcher, request, home):
    first, other = request.getfixturevalue(launcher)[0][0]
    assert first["status"] == other["status"] == 0 and other["printed"] == ""
    assert losses(first["printed"])[-1] < losses(first["printed"])[0] - 0.5


@pytest.mark.parametrize("example", ["sharded", "replicated"])
def test_the_examples_are_short(example):
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize(("job", "name"), [(1, "out"), (4, "shards")])
def test_one_process_prints_and_writes_for_all(job, name, by_torchrun, home):
    first, other = by_torchrun[0][job]
    assert first["status"] == other["status"] == 0 and other["printed"] == ""
    assert "6 steps in all (batch 3 x accumulate 1 x 2 processes)" in first["printed"]
    assert re.search(r"Peak memory: \S+ MiB resident.* planned", first["printed"])
    there = {path.name for path in (home / "torchrun" / name).iterdir()}
    assert there > {"run.yaml", "plan.json", "log.jsonl", "report.html", "README.md", MODEL}
    steps = [json.loads(x) for x in (home / "torchrun" / name / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in steps if "loss" in x] == [1, 2, 3, 4, 5, 6]
    assert resolved(home / "torchrun" / name / "run.yaml")[1]["processes"] == 2


def test_two_processes_learn_what_one_does_from_batches_twice_as_large(by_torchrun, home):
    two, one, before = (load_file(home / x / MODEL) for x in ("torchrun/out", "alone/out", "model"))
    moved = max((one[name] - before[name]).abs().max() for name in one)
    assert moved > 0.01
    for name, x in one.items():
        assert (two[name] - x).abs().max() < 0.02 * moved, name


def test_shards_learn_what_replicas_do_and_take_half_of_the_memory(by_torchrun, home):
    shards, replicas, before = (load_file(home / "torchrun" / x / MODEL) for x in ("shards", "out", "../model"))
    assert shards.keys() == replicas.keys()
    moved = max((x - before[name]).abs().max() for name, x in replicas.items())
    for name, x in replicas.items():
        assert (shards[name] - x).abs().max() < 1e-4 * moved, name
    half, all_ = (json.loads((home / "torchrun" / x / "plan.json").read_text()) for x in ("shards", "out"))
    for key in ("weights_bytes", "state_bytes", "gradients_bytes"):
        assert half["measured"][key] == pytest.approx(all_["measured"][key] / 2, rel=0.02), key
    assert half["planned"]["state_bytes"] == half["measured"]["state_bytes"]
    assert half["planned"]["state_bytes"] == pytest.approx(all_["planned"]["state_bytes"] / 2, rel=0.02)


def test_adapters_on_shards_are_those_of_one_process(by_torchrun, home):
    first, other = by_torchrun[0][5]
    assert first["status"] == other["status"] == 0
    folders = [home / x / "adapters" for x in ("torchrun", "alone")]
    found, expected = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert found.keys() == expected.keys()
    largest = max(x.abs().max() for x in expected.values())
    for name, x in expected.items():
        assert found[name].dtype == x.dtype and (found[name] - x).abs().max() < 1e-2 * largest, name
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    for config in configs:
        config["target_modules"].sort()
        assert config.pop("base_model_name_or_path").endswith("/model")
    assert configs[0] == configs[1]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns_on_shards_what_it_does_on_replicas(task, by_torchrun, home):
    for said in by_torchrun[0][6:-1]:
        assert [each["status"] for each in said] == [0, 0], said
    found = []
    for parallel in ("fsdp", "ddp"):
        lines = (home / "torchrun" / f"{task}-{parallel}" / "log.jsonl").read_text().splitlines()
        found.append([x for x in map(json.loads, lines) if "loss" in x])
    assert [x["step"] for x in found[0]] == [1, 2]
    for shards, replicas in zip(*found, strict=True):
        assert replicas["grad_norm"] > 0.01
        for key in ("loss", "grad_norm"):
            assert shards[key] == pytest.approx(replicas[key], rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize(("saved", "expected"), [("killed/gone", "out"), ("interrupted/stopped", "shards")])
def test_a_run_goes_on_to_the_same_bits(saved, expected, by_torchrun, by_accelerate, home):
    for first, other in by_accelerate[0][1:]:
        assert first["status"] == other["status"] == 0 and other["printed"] == ""
    files = [folder / MODEL for folder in (home / "torchrun" / expected, home / saved)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ctrl_c_ends_all_within_seconds_with_a_checkpoint_and_a_line_that_says_how_to_go_on(interrupted, home):
    said, seconds = interrupted
    assert said["status"] == 128 + signal.SIGINT and seconds < 25  # torchrun kills what goes on for 30
    line = said["printed"].splitlines()[-1]
    assert line == (
        "Ended after step 3, with a checkpoint. Go on with: torchrun --nproc-per-node 2 -m hybridopt train "
        "stopped/run.yaml --resume"
    )


def test_torchrun_says_which_process_was_killed(killed):
    status, error = killed
    assert status != 0 and re.search(r"rank +: 0", error)


def test_a_run_goes_on_with_other_numbers_of_processes(by_others, home):
    first, other = by_others
    assert first["status"] == other["status"] == 0 and other["printed"] == ""
    assert (
        "--resume: a step takes the same examples by batch 2 x accumulate 1 x 3 processes, before by "
        "batch 3 x accumulate 1 x 2 processes"
    ) in first["printed"]
    folders = [home / x for x in ("others/stopped", "alone/out")]
    logs = [[json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()] for folder in folders]
    found, expected = ([x["loss"] for x in log if "loss" in x] for log in logs)
    assert found == pytest.approx(expected, rel=1e-3) and len(found) == 6  # each step learnt from its own examples
    model, one, before = (load_file(x / MODEL) for x in (*folders, home / "model"))
    moved = max((one[name] - before[name]).abs().max() for name in one)
    for name, x in one.items():
        assert (model[name] - x).abs().max() < 0.02 * moved, name


def test_what_is_refused_ends_all_and_is_told_once(by_torchrun, home):
    first, other = by_torchrun[0][2]
    assert "none of the 54 examples is short enough" in first["status"] and other["status"] == 1
    assert other["printed"] == "" and not (home / "torchrun" / "short").exists()


def test_what_is_wrong_on_another_process_alone_is_told_with_its_rank(by_torchrun, home):
    first, other = by_torchrun[0][3]
    assert first["status"] == 1 and not (home / "torchrun" / "apart").exists()
    assert re.search(r"rank 1: data\.train: there is no .*rank-1\.jsonl", other["status"])


def test_torch_has_nothing_to_warn_of(by_torchrun, by_accelerate):
    for _, error in (by_torchrun, by_accelerate):
        assert "find_unused_parameters" not in error


# ---- HybridTrainer


@pytest.fixture(scope="module")
def cells(by_torchrun, home):
    first, other = by_torchrun[0][-1]
    assert first["status"] == other["status"] == 0, first["status"]
    return [torch.load(home / x) for x in ("torchrun/cells-0.pt", "torchrun/cells-1.pt", "alone/cells-alone.pt")]


@pytest.mark.parametrize("name", CELLS)
def test_a_trainer_on_two_ranks_does_what_it_does_on_one(name, cells):
    (weights, told, again), (others, _, _), (expected, alone, _) = (cell[name] for cell in cells)
    exactly = name.split("-")[0] in ("mezo", "subzero")  # nothing is added up but losses
    assert told == (alone if exactly else pytest.approx(alone, rel=1e-4))
    for n, x in expected.items():
        torch.testing.assert_close(
            weights[n], x, **({"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-3, "atol": 1e-5})
        )
        assert torch.equal(weights[n], others[n]) and torch.equal(weights[n], again[n]), n


@pytest.mark.parametrize("name", ["badam-shards", "muon-fsdp"])
def test_one_process_goes_on_with_the_checkpoint_of_two(name, cells, home):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gone_on(name, home / "torchrun" / "cells")
    for n, x in found.items():
        torch.testing.assert_close(x, cells[0][name][0][n], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", BEGUN_BY_ONE)
def test_two_ranks_go_on_with_the_checkpoint_of_one_process(name, cells):
    found, others, expected = *(cell["begun by one"][name] for cell in cells[:2]), cells[2][name][0]
    for n, x in expected.items():
        torch.testing.assert_close(found[n], x, rtol=1e-3, atol=1e-5)
        assert torch.equal(found[n], others[n]), n


# ---- the world


def test_a_world_that_cannot_be_is_refused():
    from hybridopt.core.launch_environment import World, world

    assert world({}) == world({"RANK": "0", "WORLD_SIZE": "1"}) == World() and World().leads
    assert world({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == World(3, 4, 1)
    with pytest.raises(HybridOptError, match="RANK=2 is not allowed with WORLD_SIZE=2"):
        world({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(HybridOptError, match="WORLD_SIZE='two' in the environment is no number"):
        world({"RANK": "0", "WORLD_SIZE": "two"})


def test_a_command_to_go_on_names_what_has_started_this_process():
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    from hybridopt.core.launch_environment import launched

    assert launched(3, {}) == "torchrun --nproc-per-node 3 -m hybridopt"
    words = [*ACCELERATE[1:], "-m", "hybridopt", "train"]
    told = prepare_multi_gpu_env(_validate_launch_command(launch_command_parser().parse_args(words))[0])
    assert launched(2, told) == "accelerate launch --multi_gpu --num_processes 2 -m hybridopt"


def test_accelerate_does_not_shard_as_well(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(HybridOptError, match="--use_fsdp.*--set parallel=fsdp"):
        prepare(run_of("nowhere", ["nothing.jsonl"], []))


@pytest.mark.parametrize("kind", [torch.distributed.DistBackendError, RuntimeError])
def test_a_process_that_has_gone_is_told_in_words(kind):
    from hybridopt.training.running.ranks import _in_words

    assert "was killed" in str(_in_words(kind("[../gloo/pair.cc:553] Connection closed by peer")))
    assert _in_words(ValueError("no")).args == ("no",)
