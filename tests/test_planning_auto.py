"""policy="auto": what is chosen, set up and refused."""

import pytest
import torch
from models import tiny_llama
from peft import LoraConfig
from torch import nn

import hybridopt
from hybridopt import HybridOptError

SIZE = {"seq_len": 32}


def peaks(**asked):
    from hybridopt.planning import search

    return {
        c.way.title: c.estimate.peak_bytes
        for c in search(tiny_llama().config, 1 << 40, asked=asked, dtype="fp32", device="cpu", **SIZE)
    }


def test_plenty_of_memory_gives_adamw_on_everything():
    model = tiny_llama()
    wrapped = hybridopt.wrap(model, policy="auto", memory="4GiB", **SIZE)
    assert wrapped is model and wrapped.hybrid.choice.way.title == "AdamW"
    optimizer = wrapped.hybrid.optimizer()
    assert set(wrapped.hybrid.tags.values()) == {"state-full"}
    assert optimizer.release == wrapped.hybrid.choice.request.release
    assert optimizer.param_groups[0]["lr"] == wrapped.hybrid.choice.way.lr
    assert wrapped.hybrid.optimizer(lr=0.5, release="accumulate").param_groups[0]["lr"] == 0.5


def test_less_memory_gives_a_way_that_fits_and_trains():
    known = peaks()
    room = known["AdamW"] - 1
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory=room, **SIZE)
    choice = model.hybrid.choice
    assert choice.fits and choice.estimate.peak_bytes <= room
    assert choice.request.checkpointing or choice.request.release == "fused" or choice.way.title != "AdamW"
    tokens = torch.arange(32).view(1, 32)
    optimizer = model.hybrid.optimizer()
    before = model(input_ids=tokens, labels=tokens).loss
    before.backward()
    optimizer.step()
    assert any(m.gradient_checkpointing for m in model.modules() if hasattr(m, "gradient_checkpointing")) == (
        choice.request.checkpointing
    )
    assert model(input_ids=tokens, labels=tokens).loss < before


def test_adapters_and_quantization_that_are_given_are_kept_to():
    lora = LoraConfig(r=3, target_modules=["q_proj", "v_proj"])
    model = hybridopt.wrap(tiny_llama(), policy="auto", memory="4GiB", peft_config=lora, quantization="nf4", **SIZE)
    assert model.hybrid.choice.request.lora == 3 and model.hybrid.quantization == "nf4"
    assert {n.split(".")[-4] for n, tag in model.hybrid.tags.items() if tag != "frozen"} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"memory": "24"}, "unit"),
        ({"memory": None}, "memory=None"),
        ({"memory": -1}, "memory=-1"),
        ({"memory": "1KiB"}, "missing"),
        ({"memory": "1GiB", "density": 0.5}, "no option 'density'"),
        ({"memory": "1GiB", "seq_len": 0}, "seq_len=0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_changed(options, say):
    model = tiny_llama()
    with pytest.raises(HybridOptError, match=say):
        hybridopt.wrap(model, policy="auto", **options)
    assert "hybrid" not in vars(model) and all(p.requires_grad for p in model.parameters())


def test_only_transformers_models_can_be_planned():
    with pytest.raises(HybridOptError, match="name a policy"):
        hybridopt.wrap(nn.Linear(3, 3), policy="auto", memory="1GiB")


def test_the_live_plan_is_that_of_the_configuration():
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    from hybridopt.planning import Request, plan

    request = Request(policy="frugal", seq_len=32, dtype="fp32", device="cpu")
    assert model.hybrid.plan(seq_len=32).peak_bytes == plan(model.config, request).peak_bytes


def test_the_report_ends_with_the_step_when_asked():
    model = hybridopt.wrap(tiny_llama(), policy="frugal")
    report, plan = model.hybrid.report(seq_len=32), model.hybrid.plan(seq_len=32)
    assert sum(report.step.values()) == plan.peak_bytes and report.as_dict()["step"]["activations"] > 0
    assert "peak of a step: " in str(report).splitlines()[-1] and "activations" in str(report)
    assert "peak of a step" not in str(model.hybrid.report())
