"""What a step computes and moves is what a real step does, and is told in the table and as data."""

import io

import pytest
import torch
from rich.console import Console

import hybridopt
from hybridopt.core.budget import budget
from hybridopt.planning import Estimator, Request, table
from hybridopt.planning.subject.model import Subject
from hybridopt.planning.ways.choice import Choice
from hybridopt.planning.ways.ways import WAYS
from support.models import tiny_llama

pytestmark = pytest.mark.slow

SETTINGS = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
}  # fmt: skip
SIZE = {"seq_len": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def estimator():
    return Estimator(Subject("it", SETTINGS))


@pytest.mark.parametrize(
    ("policy", "options", "wanted"),
    [
        ("mezo", {}, "2F"),
        ("mezo", {"samples": 3}, "6F"),
        ("fzoo", {"samples": 4}, "5F"),
        ("zo_conservative", {}, "5F"),
        ("addax", {}, "3F+1B"),
        ("adamw", {}, "1F+1B"),
    ],
)
def test_passes_are_those_of_a_real_step(policy, options, wanted, estimator):
    model = hybridopt.wrap(tiny_llama(), policy=policy, **options)
    optimizer = model.hybrid.optimizer(lr=1e-4)
    tokens = torch.arange(8)[None]
    ran = []

    def loss():
        return model(input_ids=tokens, labels=tokens).loss

    for _ in range(2):  # a first step may look at more
        ran.clear()
        hook = model.register_forward_hook(lambda *_: ran.append("F"))
        if policy == "addax":
            optimizer.probe(loss)
        if "B" in wanted:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            optimizer.step(loss)
        hook.remove()
    work = model.hybrid.plan(batch={"input_ids": tokens, "labels": tokens}).work
    assert str(work) == wanted and work.forward == len(ran)


def test_work_is_counted_against_adamw_on_all_weights(estimator):
    def work(**changes):
        return estimator.estimate(Request(**{"policy": "adamw", **SIZE} | changes)).work

    plain = work()
    assert str(plain) == "1F+1B" and plain.relative == 1
    again = work(checkpointing=True, micro_batches=3)
    assert str(again) == "6F+3B" and again.relative == pytest.approx(4 / 3)
    adapters = work(lora=2)
    assert str(adapters) == "1F+1B" and 2 / 3 < adapters.relative < 0.75
    assert work(policy="mezo").relative == pytest.approx(2 / 3)


def test_an_update_moves_weights_and_state_both_ways_and_gradients_once(estimator):
    for changes, each in (({"policy": "adamw"}, 2 * 2 + 2 + 2 * 8), ({"policy": "mezo"}, 2 * 2)):
        found = estimator.estimate(Request(**SIZE, **changes))
        assert found.work.update == each * found.parameters
    turns = estimator.estimate(Request(policy="badam", **SIZE))
    assert turns.work.update < estimator.estimate(Request(policy="adamw", **SIZE)).work.update * 0.6


def test_tables_and_data_tell_it(estimator):
    found = estimator.estimate(Request(policy="adamw", checkpointing=True, **SIZE))
    told = found.as_dict()
    assert (told["forward_passes"], told["backward_passes"], told["relative_work"]) == (2, 1, 1.3333)
    assert told["update_bytes_moved"] == found.work.update
    room = budget(2 * found.peak_bytes, 0)
    choices = [Choice(WAYS[0], found, True, 1e-4)] * 3
    for width, passes in ((80, True), (40, False)):
        console = Console(width=width, file=io.StringIO())
        console.print(table.choices_table(choices, room), crop=False)
        bars = [line for line in console.file.getvalue().splitlines() if "█" in line]
        assert all(("F" in line.split("|")[1]) == passes for line in bars) and len(bars) == len(choices)
        assert all(len(line) <= width for line in bars)
    console = Console(width=80, file=io.StringIO())
    console.print(table.estimate_table(found))
    assert "2 forward passes and 1 backward pass, 1.33 x" in " ".join(console.file.getvalue().split())


def test_a_plan_prints_the_rows_of_the_command():
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    tokens = torch.arange(8)[None]
    found = model.hybrid.plan(batch={"input_ids": tokens, "labels": tokens})
    console = Console(width=200, file=io.StringIO())
    console.print(table.estimate_table(found))
    shown = [line.strip("│ ■").split("│") for line in console.file.getvalue().splitlines() if "│" in line]
    text = str(found)
    assert len(shown) == 8 and repr(found) == text
    for row in shown:
        line = next(line for line in text.splitlines() if line.startswith(row[0].strip(" ■")))
        assert line.split() == " ".join(row).replace("■", "").split()
    assert text.splitlines()[0].startswith("LlamaForCausalLM: ") and "1 forward pass and 1 backward pass" in text


def test_a_model_that_computes_layers_again_is_planned_so():
    model = hybridopt.wrap(tiny_llama(), policy="adamw")
    model.gradient_checkpointing_enable()
    assert str(model.hybrid.plan(seq_len=8).work) == "2F+1B" and "checkpointing" in str(model.hybrid.plan(seq_len=8))
