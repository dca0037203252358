"""`hybridopt plan` says where a policy is started from, and what a known rate is for the batch that is planned."""

import json

import pytest
from transformers import LlamaConfig
from typer.testing import CliRunner

from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.policy.routes import read_policy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 768, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaConfig(**sizes, vocab_size=96).save_pretrained(found)
    return found


def planned(folder, *more):
    base = ["plan", str(folder), "--policy", "lion", "--seq-len", "16", "--batch", "4", "--micro-batches", "16"]
    return CliRunner().invoke(app, [*base, *more])


def test_the_rate_to_start_from_is_that_of_the_policy_for_this_width(folder):
    told = json.loads(planned(folder, "--json").stdout)
    rate = read_policy("lion", {}).start_from.full
    assert told["lr"] == rate.at(768) == pytest.approx(rate.value / 2, rel=0.01) and rate.source in told["lr_source"]
    assert f"lr={told['lr']:g} to start from: for all weights" in planned(folder).stdout
    adapted = json.loads(planned(folder, "--lora", "2", "--json").stdout)
    assert adapted["lr"] == read_policy("lion", {}).start_from.lora.at(768)


@pytest.mark.parametrize(("policy", "rate"), [("lion", 2e-4), ("lomo", 4e-4)])
def test_a_rate_for_another_batch_is_converted(folder, policy, rate):
    told = json.loads(planned(folder, "--policy", policy, "--lr", "1e-4", "--lr-batch", "16", "--json").stdout)
    assert told["lr"] == rate and "for 64 examples a step, as 0.0001 is for 16" in told["lr_source"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("--lr", "1e-4"), "give --lr-batch, too"),
        (("--lr-batch", "16"), "give --lr, too"),
        (("--lr", "-1", "--lr-batch", "16"), "plan: lr=-1.0 is not allowed"),
        (("--lr", "1e-4", "--lr-batch", "0"), "plan: lr_batch=0 is not allowed"),
        (("--policy", "mezo", "--lr", "1e-4", "--lr-batch", "16"), "takes no gradients from backward passes"),
    ],
)
def test_half_a_rate_or_one_without_a_law_is_refused(folder, given, text):
    with pytest.raises(HybridOptError, match=text):
        raise planned(folder, *given).exception
