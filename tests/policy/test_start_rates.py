"""Where no learning rate is given, that of the policy is taken, for what is trained and how wide it is."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.cli.main import app
from hybridopt.core.contracts import USES, Rate, StartFrom
from hybridopt.core.registry import names
from hybridopt.model.roles import Param
from hybridopt.policy.description import started_from
from hybridopt.policy.routes import read_policy
from hybridopt.policy.start_rates import start_rate, use_of, width_of
from support.models import tiny_llama

ROOT = Path(__file__).parents[2]
RECORD = read_policy("lion", {}).start_from


def rate_of(optimizer):
    (rate,) = {group["lr"] for group in optimizer.param_groups}
    return rate


@pytest.mark.parametrize("policy", names("policies"))
def test_every_policy_says_where_it_is_started_from_and_by_what(policy):
    record = read_policy(policy, {}).start_from
    assert isinstance(record, StartFrom)
    for use, rate in vars(record).items():
        if rate is None:
            assert use == "pretrain"
            continue
        kind, _, told = rate.source.partition("measured in ")
        table = told.partition(", with ")[0]
        assert kind == "" or kind.startswith(("derived: ", "the paper's"))
        assert not table or (ROOT / table).is_file()
        assert start_rate(read_policy(policy, {}), use)[0] == rate.value


def test_what_is_trained_chooses_the_rate():
    model = hybridopt.wrap(tiny_llama(), "lion")
    assert rate_of(model.hybrid.optimizer()) == RECORD.full.value
    assert rate_of(model.hybrid.optimizer(lr="pretrain")) == RECORD.pretrain.value
    assert rate_of(model.hybrid.optimizer(lr=0.5)) == 0.5
    adapted = hybridopt.wrap(tiny_llama(), "lion", peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    assert rate_of(adapted.hybrid.optimizer()) == RECORD.lora.value != RECORD.full.value
    assert rate_of(adapted.hybrid.optimizer(lr="full")) == RECORD.full.value
    named = [(n, p) for n, p in adapted.named_parameters() if p.requires_grad]
    assert rate_of(HybridOptimizer(named, policy="lion")) == RECORD.lora.value
    assert rate_of(HybridOptimizer([{"params": named}], policy="lion")) == RECORD.lora.value
    assert rate_of(HybridOptimizer([torch.nn.Parameter(torch.ones(4, 4))], policy="lion")) == RECORD.full.value


def test_wider_models_take_smaller_steps_and_narrower_ones_none_larger():
    rate = Rate(1e-3, "measured", 384)
    assert [rate.at(width) for width in (None, 64, 384, 768, 3840)] == [1e-3, 1e-3, 1e-3, 5e-4, 1e-4]
    assert Rate(1e-3, "the paper's").at(4096) == 1e-3
    wide = [Param("a.weight", "linear", (1536, 4096)), Param("b.weight", "quantized", (4096, 1536))]
    ends = [Param("lm_head.weight", "head", (32000, 64)), Param("norm.weight", "norm", (64,))]
    assert width_of([*wide, *ends]) == 1536 and width_of(ends) is None
    found, why = start_rate(read_policy("adamw", {}), "full", 1536)
    measured = read_policy("adamw", {}).start_from.full
    assert found == measured.at(1536) < measured.value and f"{measured.value:g} at width {measured.width}" in why
    params = [("layers.0.weight", torch.nn.Parameter(torch.ones(1536, 1536)))]
    assert rate_of(HybridOptimizer(params, policy="adamw")) == found


def test_adapters_that_stand_still_are_no_reason():
    adapter = Param("q.lora_A.weight", "adapter", (2, 8))
    still = Param("q.lora_A.weight", "adapter", (2, 8), trainable=False)
    assert [use_of([each]) for each in (adapter, still)] == ["lora", "full"]


def test_options_choose_the_record_and_rates_of_their_own_come_first():
    slow = {"free_lr_scale": 0.1}
    assert read_policy("frugal", slow).start_from.full.value > read_policy("frugal", {}).start_from.full.value
    assert read_policy("adafrugal", slow).start_from == read_policy("frugal", slow).start_from
    assert read_policy("adafactor", {"relative_step": True}).start_from.full.value == 1
    scaled, unscaled = (read_policy("adafactor", {"scale_parameter": each}).start_from for each in (True, False))
    assert scaled.full.width is None and unscaled.full.width
    both = read_policy("addax", {"zo_lr": 1e-5, "fo_lr": 1e-3})
    assert start_rate(both, "lora")[0] == 1e-5 + 1e-3
    with pytest.raises(HybridOptError, match="zo_lr and fo_lr of the policy say"):
        HybridOptimizer([torch.nn.Parameter(torch.ones(2, 2))], lr="full", policy=both)


def test_own_routes_keep_the_old_rate():
    params = [torch.nn.Parameter(torch.ones(4, 4))]
    own = Policy((Route(Treatment()),))
    assert rate_of(HybridOptimizer(params, policy=own)) == 1e-3
    for use in USES:  # a rate that is asked for by its use is no guess
        with pytest.raises(HybridOptError, match=f"lr='{use}': nothing is known of own routes; give a number"):
            HybridOptimizer(params, lr=use, policy=own)


@pytest.mark.parametrize(
    ("policy", "lr", "text"),
    [
        ("adamw", "pretraining", "lr='pretraining' is not known; did you mean 'pretrain'"),
        ("adamw", "", "lr='' is not known"),
        ("adamw", "1e-3", "lr='1e-3' is not allowed; give a number.* did you mean 0.001, without quotes"),
        ("mezo", "pretrain", "nothing is known of this policy in pre-training"),
    ],
)
def test_other_words_are_refused(policy, lr, text):
    with pytest.raises(HybridOptError, match=text):
        HybridOptimizer([torch.nn.Parameter(torch.ones(4, 4))], lr=lr, policy=policy)


def test_the_command_tells_them():
    every = CliRunner().invoke(app, ["policies"], env={"COLUMNS": "160"}).output
    assert "start from" in every and f"pretrain {RECORD.pretrain.value:g}" in every
    assert "\u2026" not in CliRunner().invoke(app, ["policies"], env={"COLUMNS": "80"}).output
    one = CliRunner().invoke(app, ["policies", "lion"], env={"COLUMNS": "160"}).output
    assert 'lr="lora"' in one and RECORD.pretrain.source in one
    assert started_from("mezo")[0] == ("pretrain", "", "nothing is known")
