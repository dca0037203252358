"""What spreads models over devices is refused for placed ones, by name."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import hybridopt
from hybridopt import HybridOptError
from hybridopt.integrations.trainer_placed import check_placed
from support.models import tiny_llama
from support.placed import adapted, model_at, train


@pytest.fixture(scope="module")
def group():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_data_parallel(group):
    model = adapted(model_at("staged"))
    with pytest.raises(HybridOptError, match="DistributedDataParallel computes with copies"):
        DistributedDataParallel(model)
    assert train(model, 1).losses


def test_sharded_models(group):
    model = adapted(model_at("staged"))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer)
    with pytest.raises(
        HybridOptError, match="was replaced since the model was placed, as fully_shard, FSDP, DeepSpeed"
    ):
        model.hybrid.optimizer()
    plain = tiny_llama()
    fully_shard(plain)
    with pytest.raises(HybridOptError, match="leave placement out for sharded models"):
        hybridopt.wrap(plain, placement="host")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"is_deepspeed_enabled": True}, "DeepSpeed"),
        ({"is_fsdp_enabled": True}, "FSDP"),
        ({"world_size": 2}, "DistributedDataParallel"),
        ({"n_gpu": 2}, "DataParallel.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_settings_of_a_trainer(setting, name):
    args = SimpleNamespace(**{"world_size": 1, "n_gpu": 1} | setting)
    trainer = SimpleNamespace(**{"is_deepspeed_enabled": False, "is_fsdp_enabled": False} | setting, args=args)
    trainer.model = torch.nn.Linear(1, 1)
    check_placed(trainer)
    trainer.model = model_at("staged")
    with pytest.raises(HybridOptError, match=name):
        check_placed(trainer)
