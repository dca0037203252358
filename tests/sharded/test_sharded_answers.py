"""Sharded models write answers: what one process would, also where ranks need different numbers of tokens."""

import pytest
import torch
from peft import LoraConfig
from torch import distributed

import hybridopt
from hybridopt.integrations.trl.answers import let_answer_
from hybridopt.model.fsdp.applying import shard_
from support.models import tiny_llama
from support.sharded_llama import LORA
from support.sharding import weights

pytestmark = pytest.mark.slow


def answered(lora, ranks=True):
    """Write answers, longer ones on the second rank, then train a step; return answers and weights."""
    torch.manual_seed(0)
    model = hybridopt.wrap(tiny_llama(), policy="sgd", **({"peft_config": LoraConfig(**LORA)} if lora else {}))
    if ranks:
        shard_(model)
    let_answer_(model)
    optimizer = model.hybrid.optimizer(lr=0.1)
    tokens = torch.arange(8).view(2, 4) + 1
    passes = []
    model.get_output_embeddings().register_forward_hook(lambda *_: passes.append(1))
    longest = 7 if not ranks or distributed.get_rank() else 3
    with torch.no_grad():
        found = model.generate(input_ids=tokens, max_new_tokens=longest, do_sample=False, eos_token_id=None)
    assert len(passes) == 7  # ranks keep step until the last of them is done
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    return found[:, 4:], weights(model)


@pytest.mark.parametrize("lora", [False, True])
def test_answers_are_those_of_one_process(lora, two):
    expected, trained = answered(lora, ranks=False)
    for (found, after), length in zip(two.run(answered, lora), (3, 7), strict=True):
        assert found.equal(expected[:, :length])
        for name, x in trained.items():
            torch.testing.assert_close(after[name], x, rtol=1e-4, atol=1e-6)
