"""What a `HybridTrainer` of a sharded model saves, by a process that is alone with its shards."""

import pytest
from torch import distributed

from benchmarks.shared.byte_chat import tokenizer
from hybridopt.integrations.trainer import HybridTrainer
from hybridopt.model.fsdp.applying import shard_
from support.models import tiny_llama
from support.trainers import arguments, data

pytestmark = pytest.mark.slow


@pytest.fixture
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("pushed", [False, True])
def test_a_saved_model_has_its_tokenizer(pushed, alone, tmp_path):
    args = arguments(
        tmp_path / "run",
        max_steps=2,
        warmup_steps=0,
        eval_strategy="no",
        save_strategy="no",
        gradient_accumulation_steps=1,
    )
    trainer = HybridTrainer(tiny_llama(), args, train_dataset=data(), processing_class=tokenizer(), policy="lion")
    shard_(trainer.model)
    trainer.train()
    if pushed:  # as Trainer.push_to_hub saves
        trainer.save_model(_internal_call=True)
    else:
        trainer.save_model(str(tmp_path / "run"))
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert there >= {"hybridopt_delta.safetensors", "hybridopt_config.json", "tokenizer.json"}
