"""Whether DDP has to look for parameters without gradients: only where a model has some."""

import pytest
import torch
from torch import nn

from hybridopt import HybridOptError
from hybridopt.core.registry import find, make
from hybridopt.integrations.transformers.reached import reaches_all
from hybridopt.training.config.reading import read_run
from support.models import tiny_bert, tiny_llama


def test_a_model_whose_loss_depends_on_everything_is_left_as_it_was():
    model = tiny_llama().train()
    model.model.norm.eval()
    before, modes = torch.random.get_rng_state(), [module.training for module in model.modules()]
    assert reaches_all(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_what_is_trained_and_not_reached_is_found():
    model = tiny_llama()
    model.unused = nn.Linear(2, 2)
    assert not reaches_all(model)
    model.unused.requires_grad_(False)
    assert reaches_all(model)
    assert reaches_all(tiny_bert())


def test_tasks_whose_trainers_take_no_shards_are_refused_for_several_processes(monkeypatch):
    monkeypatch.setattr(find("tasks", "dpo"), "shards", False)
    task, run = make("tasks", "dpo"), read_run("model: m\ndata: r.jsonl\nparallel: fsdp")
    task.check(run, "preference")
    for key, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    with pytest.raises(HybridOptError, match="parallel: fsdp is not for task 'dpo'.*parallel: ddp"):
        task.check(run, "preference")


def test_answers_to_a_prompt_are_counted_over_all_processes(monkeypatch):
    text = "model: m\ndata: r.jsonl\ntask: grpo\ntrain: {batch: 2, accumulate: 2}"
    task, run = make("tasks", "grpo", reward="os:getpid", num_generations=8), read_run(text)
    with pytest.raises(HybridOptError, match="x processes = 4 answers a step.*num_generations=8"):
        task.check(run, "prompt")
    for key, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    task.check(run, "prompt")
