"""A rank of LoRA above what layers can use is told, by `wrap`, plans and runs, and is taken all the same."""

import re
import warnings

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.config import BdLoraConfig
from torch import nn

import hybridopt
from hybridopt import HybridOptWarning
from hybridopt.cli.plan.command import plan as command
from hybridopt.model.adapters import usual_library
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of
from support.models import tiny_llama

LINEAR = [*map(str, range(8)), "router"]


class Routed(nn.Module):
    """Wide layers, and a narrow one beside them, as routers are."""

    def __init__(self, classes=4):
        super().__init__()
        self.wide = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
        self.router = nn.Linear(512, classes)
        self.table, self.image = nn.Embedding(100, 24), nn.Conv2d(3, 40, 2)


def said(model, **config):
    """Return what is said of adapters on a model without memory."""
    with torch.device("meta"):
        return usual_library().useless_rank(usual_library().attach(model(), LoraConfig(**config), empty=True))


def test_wrap_warns_of_it_naming_layers_and_trains_what_was_asked_for():
    config = LoraConfig(r=1000, target_modules="all-linear")
    told = r"rank 1000 is above the smaller side of 14 of 14 layers.*: model.layers.0.self_attn.q_proj \(64 x 64\), "
    with pytest.warns(HybridOptWarning, match=told + ".*, 11 more\\..*r=64 is the most") as caught:
        model = hybridopt.wrap(tiny_llama(), policy="adamw", peft_config=config)
    assert len([each for each in caught if "rank" in str(each.message)]) == 1
    assert model.get_submodule("model.model.layers.0.self_attn.q_proj").lora_A["default"].weight.shape[0] == 1000


def test_a_rank_that_layers_can_use_is_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        hybridopt.wrap(tiny_llama(), policy="adamw", peft_config=LoraConfig(r=64, target_modules="all-linear"))


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"r": 16, "target_modules": LINEAR}, None),  # little is lost
        ({"r": 16, "target_modules": ["router"]}, r"1 of 1 .*: router \(4 x 512\)\. .*r=4 is"),
        ({"r": 600, "target_modules": LINEAR, "rank_pattern": {"router": 16}}, "rank 16, 600 .* 9 of 9.* 6 more"),
        ({"r": 32, "target_modules": ["table"]}, r"table \(24 x 100\)"),
        ({"r": 16, "target_modules": ["image"]}, r"image \(40 x 12\)\. .*r=12 is"),
        ({"r": 12, "target_modules": ["image", "table"]}, None),
        ({"r": 64, "target_modules": ["0"], "use_bdlora": BdLoraConfig(target_modules_bd_a=["0"], nblocks=32)}, None),
        ({"r": 64, "target_modules": ["0"], "use_bdlora": BdLoraConfig(target_modules_bd_b=["0"], nblocks=32)}, None),
    ],
)
def test_sides_are_those_of_the_product(config, layers):
    found = said(Routed, **config)
    assert found is None if layers is None else re.search(layers, str(found)), found


def test_plans_say_it_too(tmp_path, capsys):
    config = tiny_llama().config
    estimator = Estimator(subject_of(config))
    assert "rank 1000 is above" in estimator.useless_rank(Request(policy="adamw", lora=1000))
    assert estimator.useless_rank(Request(policy="adamw", lora=64)) is None is estimator.useless_rank(Request())
    config.save_pretrained(tmp_path)
    command(str(tmp_path), policy="adamw", lora=1000, seq_len=8, json_=True)
    assert "lora: LoRA of rank 1000 is above" in capsys.readouterr().err
