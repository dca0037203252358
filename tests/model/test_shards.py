"""What cannot be sharded is refused before anything is, by name."""

import pytest
import torch
from torch import distributed

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.fsdp.applying import shard_
from hybridopt.model.placement.units import repeated
from support.models import tiny_llama


def test_trained_parameters_of_several_dtypes_are_refused(monkeypatch):
    model = tiny_llama()
    model.model.layers[1].input_layernorm.to(torch.bfloat16)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    with pytest.raises(HybridOptError, match="'input_layernorm.weight' is bfloat16.*train.dtype: fp32.*parallel: ddp"):
        shard_(model)
    assert type(model).__name__ == "LlamaForCausalLM"


def test_trained_codes_of_which_ranks_would_share_a_group_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    model = hybridopt.wrap(tiny_llama(), policy="signsgd", quantization="int8-trainable")
    with pytest.raises(
        HybridOptError, match=r"'model.layers.0.*two of 3 processes: take another number.*parallel: ddp"
    ):
        shard_(model)


def test_a_single_layer_is_one_of_those_that_are_repeated_if_asked():
    model = tiny_llama()
    del model.model.layers[1:]
    assert repeated(model) == [] and repeated(model, least=1) == ["model.layers.0"]
