"""Every task that the package has, held to its contract."""

import re
from dataclasses import fields

import pytest

from hybridopt import HybridOptError
from hybridopt.core.contracts import TrainingTask
from hybridopt.core.contracts.fulfilment import lacking
from hybridopt.core.registry import make, names, title
from hybridopt.training.config.run import Data, LoraSettings, Method, Run, Train
from hybridopt.training.data.formats import FORMATS
from support.tiny_chat import tokenizer

TASKS = names("tasks")
NEEDED = {"grpo": {"reward": "some.package:function"}}
ROWS = {  # as each trainer prepares them
    "sft": {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
    "text": {"input_ids": [1, 2, 3], "labels": [1, 2, 3]},
    "dpo": {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4]},
    "reward": {"chosen_ids": [2, 3], "rejected_ids": [4]},
    "grpo": {"prompt": "what is it?"},
    "classify": {"input_ids": [1, 2], "labels": 0},
}


def made(name):
    return make("tasks", name, **NEEDED.get(name, {}))


def test_the_tasks_of_the_package():
    assert TASKS == ("classify", "dpo", "grpo", "reward", "sft", "text")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_all_that_is_asked(name):
    task = made(name)
    assert lacking(type(task), TrainingTask) == []
    assert title(type(task)) == name
    assert task.formats and set(task.formats) <= FORMATS.keys()
    assert task.head in ("causal", "classes", "score")
    assert task.packs or not task.keeps_rest
    written = set(re.findall(r"^ {8}(\w+): ", type(task).__doc__, re.M))
    assert written == {f.name for f in fields(task)}, "every option says what it means"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_shows_the_sequences_of_a_row(name):
    task = made(name)
    pieces = task.pieces(ROWS[name], tokenizer())
    assert len(pieces) == task.sequences
    assert all(len(piece.trained) in (0, len(piece.tokens)) and len(piece.tokens) for piece in pieces)
    assert [sum(piece.trained) for piece in pieces] == {"sft": [2], "text": [3], "dpo": [2, 1]}.get(
        name, [0] * task.sequences
    )


@pytest.mark.parametrize("name", TASKS)
def test_a_task_refuses_an_option_and_a_format_that_it_has_not(name):
    with pytest.raises(HybridOptError, match=rf"{name} has no option 'betta'"):
        make("tasks", name, betta=1, **NEEDED.get(name, {}))
    other = next(each for each in FORMATS if each not in made(name).formats)
    with pytest.raises(HybridOptError, match=rf"task='{name}' learns from .*, and the data is '{other}'"):
        made(name).check(Run("m"), other)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_refuses_packing_and_losses_that_it_has_not(name):
    task = made(name)
    if not task.packs:
        with pytest.raises(HybridOptError, match="data.packing"):
            task.check(Run("m", data=Data(packing=True)), task.formats[0])
    if name != "sft":
        with pytest.raises(HybridOptError, match=rf"data.loss_on='assistant' is not for task '{name}'"):
            task.check(Run("m", data=Data(loss_on="assistant")), task.formats[0])


def test_answers_of_a_step_are_whole_groups():
    task = make("tasks", "grpo", reward="a.b:c", num_generations=8)
    task.check(Run("m", train=Train(batch=2, accumulate=4)), "prompt")
    with pytest.raises(HybridOptError, match=r"= 6 answers a step are no multiple of num_generations=8"):
        task.check(Run("m", train=Train(batch=2, accumulate=3)), "prompt")


def test_a_distance_to_the_old_model_needs_adapters():
    task = make("tasks", "grpo", reward="a.b:c", beta=0.1)
    task.check(Run("m", method=Method(lora=LoraSettings())), "prompt")
    with pytest.raises(HybridOptError, match="a second copy of all weights"):
        task.check(Run("m"), "prompt")


@pytest.mark.parametrize("name", ["", "function", "a.b", "a.b:c()", "../a:b", "a.b:c:d", 3])
def test_a_reward_is_a_function_of_a_package(name):
    with pytest.raises(HybridOptError, match=r"reward=.* is not allowed"):
        make("tasks", "grpo", reward=name)
