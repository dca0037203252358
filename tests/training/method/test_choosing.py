"""The method of a run: what is asked is planned as it is, what is open is chosen, and what does not fit is told."""

import re
import shlex
from dataclasses import replace

import pytest
import torch
import yaml
from peft import LoraConfig
from transformers import LlamaConfig

from hybridopt import HybridOptError
from hybridopt.core.budget import budget
from hybridopt.planning import Request, plan, search
from hybridopt.planning.estimate import OVERHEAD
from hybridopt.policy.routes import read_policy
from hybridopt.training.config.reading import read_run
from hybridopt.training.config.run import LoraSettings, Method, PlacementSettings
from hybridopt.training.config.writing import to_yaml
from hybridopt.training.method import memory_budget, parallelism, planner
from hybridopt.training.method.choosing import Shape, choose, least_change
from hybridopt.training.method.parallelism import choose_together
from support.models import tiny_llama

pytestmark = pytest.mark.slow

BASE = "model: m\ndata: rows.jsonl\nmargin: 0\n"
SHAPE = Shape(64, 1, 16)
SIZE = {"seq_len": 64, "micro_batches": 16, "dtype": "fp32"}


@pytest.fixture(scope="module")
def config():
    found = tiny_llama().config
    found.dtype = torch.float32
    return found


def run(text="", *sets):
    return read_run(BASE + text, sets)


def bytes_of(size):
    return f"{size}B"


def settings(text):
    """What an error tells: as --set, and as YAML."""
    sets = shlex.split(text.partition(" in run.yaml, or ")[2].rpartition(" (")[0])[1::2]
    lines = re.split("change: |that does: ", text)[1].partition(" in run.yaml")[0].replace(" and ", ", ")
    return sets, yaml.safe_load(f"{{{lines}}}")


# ---- what is chosen


def test_with_much_room_all_weights_are_trained_and_nothing_is_left_open(config):
    chosen = choose(run("gpu: 24GiB"), config, SHAPE, others=1)
    assert chosen.fits and chosen.run.method.policy == "adamw" and chosen.run.method.lora is None
    train = chosen.run.train
    rate = read_policy("adamw", {}).start_from.full
    assert (train.lr, train.checkpointing, train.dtype) == (rate.value, False, "fp32")
    assert read_run(to_yaml(chosen.run)) == chosen.run
    assert chosen.estimate.peak_bytes == plan(config, Request("adamw", **SIZE)).peak_bytes
    assert [choice.way.title for choice in chosen.others] == ["AdamW, 8-bit state"]
    assert (
        "Method: AdamW" in chosen.told[1]
        and f"train.lr={rate.value:g} for all weights, {rate.source}" in chosen.told[2]
    )


def test_what_a_run_says_of_its_method_is_kept_to(config):
    text = "gpu: 24GiB\nmethod: {lora: {r: 4, targets: [q_proj], alpha: 3}, quantization: nf4}\ntrain: {lr: 0.5}\n"
    chosen = choose(run(text + "task: text"), config, SHAPE)
    assert chosen.run.method.lora == LoraSettings(4, 3.0, ("q_proj",)) and chosen.run.method.quantization == "nf4"
    assert chosen.run.train.lr == 0.5 and not any("train.lr" in line for line in chosen.told)


def test_where_nothing_fits_the_smallest_way_is_told(config):
    with pytest.raises(HybridOptError, match="nothing fits into 0.59 GiB.*weights.*larger GPU"):
        choose(run("gpu: 600MiB"), config, SHAPE)


# ---- what is given


def test_a_method_that_is_given_is_planned_as_it_is(config):
    text = "gpu: 24GiB\nmethod: {policy: frugal, options: {density: 0.5}, lora: {r: 4, targets: [q_proj]}}"
    chosen = choose(run(text), config, SHAPE)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    asked = Request("frugal", {"density": 0.5}, lora=4, peft_config=lora, **SIZE)
    assert chosen.estimate.peak_bytes == plan(config, asked).peak_bytes
    assert chosen.run.method == run(text).method
    assert chosen.run.train.lr == read_policy("frugal", {"density": 0.5}).start_from.lora.value


def test_checkpointing_is_on_where_it_is_needed_and_open(config):
    long = Shape(64, 8, 2)
    peaks = [
        plan(config, Request("adamw", **SIZE | {"batch": 8, "micro_batches": 2}, checkpointing=on)).peak_bytes
        for on in (False, True)
    ]
    assert peaks[1] < peaks[0]
    between = f"gpu: {bytes_of(sum(peaks) // 2)}\nmethod: adamw\ntrain: {{batch: 8, accumulate: 2"
    chosen = choose(run(between + "}"), config, long)
    assert chosen.run.train.checkpointing is True and chosen.estimate.peak_bytes == peaks[1]
    assert any("checkpointing=true" in line for line in chosen.told)
    with pytest.raises(HybridOptError, match="checkpointing: true.*--set train.checkpointing=true") as raised:
        choose(run(between + ", checkpointing: false}"), config, long)
    sets, section = settings(str(raised.value))
    assert section == {"train": {"checkpointing": True}}
    assert choose(run(between + ", checkpointing: false}", *sets), config, long).fits


@pytest.mark.parametrize("method", ["adamw", "{policy: adamw, lora: 4}"])
def test_the_least_change_that_is_told_makes_a_run_fit(config, method):
    """Whatever it is: taken as it is printed, --set and YAML alike, the run fits afterwards."""
    shape, text = Shape(256, 8, 2), f"method: {method}\ntrain: {{batch: 4, accumulate: 2, checkpointing: true}}\n"
    whole = choose(run(text + "gpu: 24GiB"), config, shape).estimate.peak_bytes
    text += f"gpu: {bytes_of(whole - (whole - 640 * 2**20) // 3)}"
    with pytest.raises(HybridOptError, match="does not fit into .* too much; the least change: ") as raised:
        choose(run(text), config, shape)
    assert not choose(run(text), config, shape, must_fit=False).fits
    sets, section = settings(str(raised.value))
    after = run(text, *sets)
    same = [f"{name}.{key}={value}" for name, keys in section.items() for key, value in keys.items()]
    assert after != run(text) and after == run(text, *same)
    length = 256 if after.data.max_length == "auto" else after.data.max_length
    changed = Shape(length, 2 * after.train.batch, after.train.accumulate)
    assert choose(after, config, changed).fits


def test_changes_that_fit_only_together_are_told_together(config):
    text = "method: adamw\ntrain: {batch: 4, accumulate: 2, checkpointing: true}\n"
    together = ["train.batch=1", "train.accumulate=8", "train.dtype=bf16", "method.release=fused"]
    peak = choose(run(text + "gpu: 24GiB", *together), config, Shape(256, 2, 8)).estimate.peak_bytes
    text += f"gpu: {bytes_of(peak)}"
    with pytest.raises(HybridOptError, match="the least change: ") as raised:
        choose(run(text), config, Shape(256, 8, 2))
    sets, section = settings(str(raised.value))
    assert sorted(sets) == sorted(together) and section["train"] == {"batch": 1, "accumulate": 8, "dtype": "bf16"}
    assert choose(run(text, *sets), config, Shape(256, 2, 8)).fits


def test_examples_of_two_sequences_are_planned_with_both(config):
    chosen = choose(run("gpu: 24GiB\nmethod: adamw\ntrain: {batch: 2}"), config, Shape(64, 4, 16))
    assert chosen.estimate.request.batch == 4 and chosen.run.train.batch == 2
    assert chosen.estimate.peak_bytes == plan(config, Request("adamw", **SIZE, batch=4)).peak_bytes


def test_what_ran_out_of_memory_is_told_a_change_that_takes_clearly_less(config):
    shape, settled = Shape(256, 8, 2), run("gpu: 24GiB\nmethod: adamw\ntrain: {batch: 8, accumulate: 2, dtype: bf16}")
    before = choose(settled, config, shape).estimate.peak_bytes - 640 * 2**20
    told = least_change(read_run(BASE + "method: adamw\ntrain: {batch: 8, accumulate: 2, dtype: bf16}"), config, shape)
    assert "--set train.checkpointing=true" in told
    less = plan(config, Request("adamw", seq_len=256, batch=8, micro_batches=2, checkpointing=True)).peak_bytes
    assert less - 640 * 2**20 < before


# ---- the memory, and what is told


def test_without_a_gpu_the_memory_of_this_machine_is_planned_for(config, monkeypatch):
    monkeypatch.setattr(memory_budget, "left", lambda root: 2**30)
    chosen = choose(run("method: adamw"), config, SHAPE)
    assert chosen.room.total == 2**30 and chosen.estimate.request.device == "cpu"
    monkeypatch.setattr(memory_budget, "left", lambda root: None)
    with pytest.raises(HybridOptError, match="does not tell how much memory is free; give a size"):
        choose(run("method: adamw"), config, SHAPE)


@pytest.fixture
def two_processes(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_every_way_that_is_planned_for_two_gpus_is_trained_by_two_processes(parallel, config, two_processes):
    found = search(config, "24GiB", margin=0, gpus=2, parallel=parallel, seq_len=64, micro_batches=16)
    assert {"adamw", "mezo"} < {choice.request.policy for choice in found if choice.fits}
    for choice in found:
        line = choice.command(budget("24GiB"))
        assert line.startswith("torchrun --nproc-per-node 2 -m hybridopt train MODEL DATA --gpu 24GiB ")
        request, sets = choice.request, line.split(" --set ")[1:]
        method = {"policy": request.policy, "options": dict(request.options), "release": request.release}
        method |= {"quantization": request.quantization} if request.quantization else {}
        method |= {"lora": request.lora} if request.lora else {}
        text = yaml.safe_dump({"gpu": "24GiB", "method": method, "train": {"dtype": "bf16"}})
        chosen = choose(run(text, *sets), config, SHAPE)
        assert chosen.fits and chosen.run.parallel == parallel, choice.way.title
        assert (chosen.estimate.request.gpus, chosen.estimate.request.parallel) == (2, parallel)


def test_shards_are_proposed_where_replicas_do_not_fit(config, two_processes):
    text = "gpu: 24GiB\nmethod: {policy: adamw, release: fused}\ntrain: {checkpointing: true, dtype: fp32}"
    half = choose(run(text, "parallel=fsdp"), config, SHAPE).estimate.peak_bytes
    small = text.replace("24GiB", f"{half // 1024 + 1}KiB")
    with pytest.raises(HybridOptError, match="the least change: .*--set parallel=fsdp"):
        choose(run(small), config, SHAPE)
    with pytest.raises(HybridOptError) as refused:
        choose(run(small), config, replace(SHAPE, shards=False))
    assert "parallel" not in str(refused.value)


def sized(config, text, parallel):
    """Return a run for GPUs into which it just fits, shared so."""
    peak = choose(run(text, f"parallel={parallel}"), config, SHAPE).estimate.peak_bytes
    return run(text.replace("24GiB", f"{peak // 1024 + 1}KiB"))


def test_processes_share_the_model_as_it_fits(config, two_processes):
    text = "gpu: 24GiB\nmethod: {policy: adamw, release: fused}\ntrain: {checkpointing: true, dtype: fp32}"
    found = choose_together(sized(config, text, "ddp"), config, SHAPE)
    assert found.run.parallel == "ddp" == found.estimate.request.parallel
    assert found.told[0] == "parallel=ddp: the whole model fits on each GPU"
    small = sized(config, text, "fsdp")
    found = choose_together(small, config, SHAPE)
    assert found.run.parallel == "fsdp" == found.estimate.request.parallel
    assert found.told[0].startswith("parallel=fsdp: the whole model does not fit on each GPU, and its rows do (")
    with pytest.raises(HybridOptError, match="does not fit"):
        choose_together(small, config, replace(SHAPE, shards=False))
    assert not choose_together(small, config, SHAPE, must_fit=False).told[0].startswith("parallel=ddp")


def test_what_fits_in_no_way_is_planned_once_in_each(config, two_processes, monkeypatch):
    ways = []

    def counted(run, *given):
        ways.append(run.parallel)
        return choose(run, *given)

    monkeypatch.setattr(parallelism, "choose", counted)
    with pytest.raises(HybridOptError, match="does not fit into"):
        choose_together(run("gpu: 1MiB\nmethod: adamw"), config, SHAPE)
    assert ways == ["ddp", "fsdp"]


def test_a_better_method_is_taken_in_shards(config, two_processes):
    text = "gpu: 24GiB\nmethod: {policy: adamw}\ntrain: {checkpointing: true, dtype: fp32}"
    small = replace(sized(config, text, "fsdp"), method=Method())
    found = choose_together(small, config, SHAPE)
    assert (found.run.parallel, found.run.method.policy) == ("fsdp", "adamw")
    assert "of the whole model on each GPU, only this would fit:" in found.told[0]
    found = choose_together(replace(small, gpu="24GiB"), config, SHAPE)
    assert (found.run.parallel, found.run.method.policy) == ("ddp", "adamw")


def test_one_process_leaves_open_how_several_share_the_model(config):
    assert choose_together(run("gpu: 24GiB\nmethod: adamw"), config, SHAPE).run.parallel == "auto"
    text = "gpu: 1MiB\nmethod: adamw\nparallel: fsdp"
    with pytest.raises(HybridOptError, match="fsdp needs a launcher, to share it: torchrun --nproc-per-node 2 -m hyb"):
        choose_together(run(text), config, SHAPE)


def test_people_are_told_what_a_method_brings_with_it(config):
    text = "gpu: 24GiB\nmethod: {policy: adamw, release: fused}"
    told = choose(run(text), config, Shape(64, 1, 16, generates=True)).told
    assert any("the CPU here" in line for line in told) and any("norm of the step before" in line for line in told)
    assert any("answers are made" in line for line in told)
    told = choose(run(text, "train.clip=null"), config, SHAPE).told
    assert not any("norm of the step" in line or "answers" in line for line in told)


def test_weights_in_float16_are_trained_in_bfloat16(config):
    class Half:
        dtype = torch.float16

    made = planner.Planner.__new__(planner.Planner)
    made.run, made.told = run(), []
    assert made._dtype(Half()) == "bf16" and "float16" in made.told[0]
    made.run = run("train: {dtype: fp32}")
    assert made._dtype(Half()) == "fp32"


# ---- what the length of a run and its batch decide


def test_windows_that_are_longer_than_the_run_are_shortened_unless_it_says_how_long(config):
    text = "gpu: 24GiB\nmethod: {policy: frugal, options: {density: 0.5%s}}"
    short = replace(SHAPE, steps=60)
    chosen = choose(run(text % ""), config, short)
    assert chosen.run.method.options == {"density": 0.5, "update_gap": 10}
    assert any(line.startswith("method.options.update_gap=10 in place of 200: in 60 steps") for line in chosen.told)
    chosen = choose(run(text % ", update_gap: 90"), config, short)
    assert chosen.run.method.options == {"density": 0.5, "update_gap": 90}
    assert any("update_gap=90: in 60 steps" in line and "update_gap=10" in line for line in chosen.told)
    for same in (SHAPE, replace(SHAPE, steps=201)):
        chosen = choose(run(text % ""), config, same)
        assert chosen.run.method.options == {"density": 0.5} and not any("gap" in line for line in chosen.told)


@pytest.mark.parametrize(("policy", "rate"), [("adamw", 2e-4), ("lomo", 4e-4)])
def test_a_rate_that_is_right_for_another_batch_is_converted_once(config, policy, rate):
    text = f"gpu: 24GiB\nmethod: {policy}\ntrain: {{lr: 1.0e-4, lr_batch: 16, batch: 4, accumulate: 16}}"
    chosen = choose(run(text), config, SHAPE)
    assert (chosen.run.train.lr, chosen.run.train.lr_batch) == (rate, None)
    assert any(f"train.lr={rate:g} for 64 examples a step" in line for line in chosen.told)
    again = choose(chosen.run, config, SHAPE)
    assert again.run.train.lr == rate and not any("train.lr" in line for line in again.told)


def test_a_batch_without_a_rate_or_a_law_is_refused(config):
    with pytest.raises(HybridOptError, match=r"train\.lr_batch says for which batch train\.lr is right"):
        run("train: {lr_batch: 16}")
    with pytest.raises(HybridOptError, match=r"train\.lr_batch=16: this policy takes no gradients"):
        choose(run("gpu: 24GiB\nmethod: mezo\ntrain: {lr: 1.0e-4, lr_batch: 16}"), config, SHAPE)


# ---- layers that rest elsewhere


@pytest.fixture(scope="module")
def deep():
    """Layers enough that few of them are much less than all, and a GPU whose own needs do not count."""
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "vocab_size": 96}
    return LlamaConfig(**sizes, num_hidden_layers=12, dtype=torch.bfloat16)


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setitem(OVERHEAD, "cuda", 0)
    return monkeypatch


LORA = (
    "method: {policy: adamw, options: {codec: int8}, release: fused, quantization: nf4, lora: 1%s}\n"
    "train: {checkpointing: true, lr: 1.0e-4}\n"
)


def test_placement_is_planned_written_back_and_told(deep):
    text = "gpu: 24GiB\n" + LORA % ", placement: {base: host, slots: 2, resident: 3}"
    chosen = choose(run(text), deep, SHAPE)
    assert chosen.run.method.placement == PlacementSettings("host", slots=2, resident=3)
    assert chosen.estimate.carried.layers == 9 and any("over the bus" in line for line in chosen.told)
    assert read_run(to_yaml(chosen.run)) == chosen.run
    assert run(LORA % "", "method.placement=disk").method.placement == PlacementSettings("disk")


def test_device_is_no_placement(deep):
    chosen = choose(run("gpu: 24GiB\n" + LORA % ", placement: device"), deep, SHAPE)
    assert chosen.estimate.carried is None and chosen.run.method.placement.base == "device"


def test_the_least_change_may_be_a_placement(deep, bare):
    short = Shape(1, 1, 1)  # no shorter sequences, no smaller batches
    away = choose(run("gpu: 24GiB\n" + LORA % ", placement: host"), deep, short).estimate
    with pytest.raises(HybridOptError, match="least change") as raised:
        choose(run(f"gpu: {bytes_of(away.peak_bytes)}\n" + LORA % ""), deep, short)
    assert "placement: host" in str(raised.value) and "--set method.placement=host" in str(raised.value)


def test_where_a_method_fits_by_no_change_the_first_way_that_does_is_told(config, bare):
    text = "gpu: 0.55MiB\nmethod: adamw\ntrain: {lr: 1.0e-5, dtype: bf16, accumulate: 1}\n"
    with pytest.raises(HybridOptError, match="fits by no change; the first way that does: ") as raised:
        choose(run(text), config, Shape(64, 1, 1))
    sets, section = settings(str(raised.value))
    assert section["method"]["policy"] != "adamw" and section["train"]["lr"] == "auto"  # another policy, another rate
    assert run(text, *sets) == run(text, *(f"{k}.{n}={v}" for k, keys in section.items() for n, v in keys.items()))
    assert choose(run(text, *sets), config, Shape(64, 1, 1)).fits


def test_where_no_method_fits_that_is_told(config, bare):
    with pytest.raises(HybridOptError, match="no change makes this method fit, and with method: auto nothing fits"):
        choose(run("gpu: 0.2MiB\nmethod: adamw\ntrain: {dtype: bf16, accumulate: 1}"), config, Shape(64, 1, 1))


def test_a_method_that_is_open_places_layers_where_nothing_else_fits(deep, bare):
    text = "gpu: 4MB\nmethod: {lora: 1, quantization: nf4}\ntrain: {checkpointing: true, accumulate: 1}\n"
    chosen = choose(run(text), deep, Shape(4, 1, 1))
    assert chosen.run.method.placement.base == "host" and chosen.run.method.placement.resident
    assert "layers on the host" in "\n".join(chosen.told) and read_run(to_yaml(chosen.run)) == chosen.run


def test_a_host_without_room_is_told(deep, monkeypatch):
    monkeypatch.setattr(planner, "left", lambda root: 1000)
    with pytest.raises(HybridOptError, match=r"the host take .* more than its memory"):
        choose(run("gpu: 24GiB\n" + LORA % ", placement: host"), deep, SHAPE)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[q_proj, v_prj]", "method.lora.targets: .*has no module 'v_prj'; did you mean 'v_proj'"),
        ("q_proj", r"method.lora.targets: .*write a list: \[q_proj\]"),
        ("[layers.7.self_attn.q_proj]", "has no module 'layers.7.self_attn.q_proj'"),
    ],
)
def test_layers_that_are_not_there_are_refused_though_others_are(targets, said, config):
    asked = run("gpu: 1GiB\nmethod: {policy: frugal, lora: {r: 2, targets: " + targets + "}}\n")
    with pytest.raises(HybridOptError, match=said):
        choose(asked, config, SHAPE)
    asked = run("gpu: 1GiB\nmethod: {policy: frugal, lora: {r: 2, targets: [layers.1.self_attn.q_proj, v_proj]}}\n")
    assert choose(asked, config, SHAPE).run.method.lora.targets == ("layers.1.self_attn.q_proj", "v_proj")


def test_modules_to_train_in_full_that_are_not_there_are_refused(config):
    asked = run("gpu: 1GiB\nmethod: {policy: frugal, lora: {r: 2, modules_to_save: [lm_haed]}}\n")
    with pytest.raises(HybridOptError, match="modules_to_save: .* has no module 'lm_haed'; did you mean 'lm_head'"):
        choose(asked, config, SHAPE)
