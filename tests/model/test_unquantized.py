"""What a quantized base keeps in floats is said, and nothing is said where that is by design."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import LlamaConfig

import hybridopt
from hybridopt import HybridOptWarning
from hybridopt.model.quantization.scheme_names import named
from hybridopt.model.unquantized import unquantized
from hybridopt.planning import Request, plan, table
from support.models import Output, tiny_bert, tiny_gpt2, tiny_llama, tiny_moe
from support.quantization import SCHEMES, quantize_, targets_of

LORA = {"peft_config": LoraConfig(r=2, target_modules=["proj"])}


class Flat(nn.Module):
    """Experts in one matrix that no layer is told of, as in DBRX."""

    def __init__(self, width=64, experts=8):
        super().__init__()
        self.proj, self.head = nn.Linear(width, width), nn.Linear(width, 8)
        self.w1 = nn.Parameter(torch.randn(experts * width, width) / 8)

    def forward(self, x, labels=None):
        h = self.proj(x) + sum(x @ w.T for w in self.w1.chunk(8))
        return Output((self.head(h) ** 2).mean(), h)


def told(action):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = action()
    return result, [str(w.message) for w in found if issubclass(w.category, HybridOptWarning)]


@pytest.mark.parametrize("scheme", [*SCHEMES, "int8-trainable"])
def test_wrap_warns_of_what_nobody_would_expect(scheme):
    lora = {} if scheme == "int8-trainable" else LORA
    model, found = told(lambda: hybridopt.wrap(Flat(), "adamw", quantization=scheme, **lora))
    assert len(found) == 1 and found[0].startswith("Flat: 89% of the base's bytes stay unquantized: w1 (88%: ")
    assert "a parameter of Flat" in found[0]
    report = model.hybrid.report()
    assert "of the base's bytes stay unquantized: w1" in str(report)
    assert report.as_dict()["unquantized"]["parts"][0]["name"] == "w1" and json.dumps(report.as_dict())


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_bert, tiny_moe])
def test_embeddings_and_output_layers_are_no_reason_for_a_warning(build):
    """They are more than a tenth of a tiny model, and the report says so."""
    lora = LoraConfig(r=2, target_modules="all-linear")
    model, found = told(lambda: hybridopt.wrap(build(), "adamw", quantization="nf4", peft_config=lora))
    left = model.hybrid.report().unquantized
    assert found == [] and any(part.why == "an embedding" for part in left.parts)
    assert ("an embedding" in str(model.hybrid.report())) == left.much == (left.share > 0.1)
    plain, found = told(lambda: hybridopt.wrap(build(), "frugal"))
    assert "weights + quantization" in str(model.hybrid.report())  # as plans call it
    assert "quantization" not in str(plain.hybrid.report())
    assert found == [] and "unquantized" not in str(plain.hybrid.report()) + json.dumps(
        plain.hybrid.report().as_dict()
    )


def test_the_share_is_that_of_the_bytes():
    model = tiny_llama()
    whole, names = sum(p.nbytes for p in model.parameters()), targets_of(model, "nf4", ["lm_head"])
    floats = whole - sum(model.get_submodule(n).weight.nbytes for n in names)
    before = unquantized(model, named("nf4", "test"), names, ["lm_head"])
    quantize_(model, "nf4", names)
    for found in (before, unquantized(model)):
        assert found.base == whole and found.share == floats / whole and found.unwanted < 0.01
        assert sum(part.nbytes for part in found.parts) == floats
    assert unquantized(tiny_llama()) is None


def test_layers_count_together():
    names = [part.name for part in unquantized(tiny_llama(), named("nf4", "test"), ["x"]).parts]
    assert "model.layers.*.mlp.down_proj.weight" in names and not any("layers.0" in name for name in names)


def test_a_choice_of_the_caller_is_no_reason_either(tmp_path):
    tiny_moe().save_pretrained(tmp_path)
    one = {"quantization": "nf4", "skip": ["model.layers.0.mlp"]}
    model, found = told(lambda: hybridopt.load(tmp_path, **one))
    assert found == []
    model, found = told(lambda: hybridopt.wrap(model, "adamw", peft_config=LoraConfig(r=2, target_modules=["q_proj"])))
    assert found == [] and "left out as asked" in str(model.hybrid.report())


def test_what_another_library_left_is_said():
    """transformers and bitsandbytes quantize layers alone."""
    model = tiny_moe()
    layers = [n for n in targets_of(model, "nf4", ["lm_head"]) if "experts" not in n]
    quantize_(model, "nf4", layers)
    _, found = told(lambda: hybridopt.wrap(model, "adamw", peft_config=LoraConfig(r=2, target_modules=["q_proj"])))
    assert len(found) == 1 and "experts.gate_up_proj" in found[0] and "not taken by what has quantized" in found[0]


def test_loading_says_it_as_wrapping_does(tmp_path, monkeypatch):
    tiny_moe().save_pretrained(tmp_path)
    monkeypatch.setattr(type(named("nf4", "test")), "packs", lambda self, weight: False)
    model, found = told(lambda: hybridopt.load(tmp_path, quantization="nf4"))
    assert len(found) == 1 and "MixtralForCausalLM: " in found[0] and "does not take its shape" in found[0]


def test_the_plan_has_a_line_of_it(capsys):
    from rich.console import Console

    config = LlamaConfig(vocab_size=4096, hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    small = plan(config, Request(policy="adamw", quantization="nf4", lora=4, seq_len=8))
    Console(width=200).print(table.estimate_table(small))
    assert "of the base's bytes stay unquantized: " in capsys.readouterr().out
    assert small.as_dict()["unquantized"]["share"] == small.unquantized.share > 0.1
    large = plan(config, Request(policy="adamw", seq_len=8))
    Console(width=200).print(table.estimate_table(large))
    assert "unquantized" not in capsys.readouterr().out and "unquantized" not in large.as_dict()
