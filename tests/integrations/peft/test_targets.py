"""Names of layers that a model does not have are refused before anything is changed, with the near name."""

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.model.adapters import usual_library
from support.models import tiny_gpt2, tiny_llama

ABSENT = [
    (["q_porj"], "LlamaForCausalLM has no module 'q_porj'; did you mean 'q_proj'\\?"),
    (["nope", "k_prj"], "has no module 'k_prj' and none 'nope'; did you mean 'k_proj'\\?"),
    (["query_key_value"], "Its layers: down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj"),
    (["self_attn.q_porj"], "did you mean 'q_proj'\\?"),
    ("q_proj", "a single text is a pattern of whole names; write a list: \\[q_proj\\]"),
    ("q_proj,v_proj", "write a list: \\[q_proj, v_proj\\]"),
    ("q_porj, v_prj", "did you mean 'q_proj'\\?"),
    (".*\\.q_porj", "has no module"),
    ("*", "'\\*' is no regular expression.*give a list of names, or 'all-linear'"),
]


@pytest.mark.parametrize(("targets", "said"), ABSENT)
def test_absent_names_are_refused_by_wrap_and_by_the_plan(targets, said):
    config, model = LoraConfig(r=2, target_modules=targets), tiny_llama()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(HybridOptError, match=said):
        hybridopt.wrap(model, policy="frugal", peft_config=config)
    assert [name for name, _ in model.named_modules()] == before and not hasattr(model, "hybrid")
    with pytest.raises(HybridOptError, match=said):
        usual_library().attach(tiny_llama(), config, empty=True)


THERE = [
    ["q_proj"],
    ["self_attn.q_proj", "down_proj"],
    ["model.layers.0.mlp.up_proj"],
    ".*\\.(q|v)_proj",
    "all-linear",
]


@pytest.mark.parametrize("targets", THERE)
def test_names_ends_of_names_and_patterns_that_are_there_are_taken(targets):
    model = hybridopt.wrap(tiny_llama(), policy="frugal", peft_config=LoraConfig(r=2, target_modules=targets))
    assert any(p.requires_grad for p in model.parameters())


def test_layers_of_other_models_are_named_as_they_are_there():
    with pytest.raises(HybridOptError, match="GPT2LMHeadModel has no module 'c_atn'; did you mean 'c_attn'"):
        hybridopt.wrap(tiny_gpt2(), policy="frugal", peft_config=LoraConfig(r=2, target_modules=["c_atn"]))
    names = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with pytest.raises(HybridOptError, match="Sequential has no module '3'; .*Its layers: 0, 2; or"):
        hybridopt.wrap(names, policy="frugal", peft_config=LoraConfig(r=2, target_modules=["3"]))


def test_where_only_some_are_absent_it_is_warned():
    config = LoraConfig(r=2, target_modules=["q_proj", "k_prj"])
    with pytest.warns(HybridOptWarning, match="has no module 'k_prj'; did you mean 'k_proj'.*PEFT passes over them"):
        hybridopt.wrap(tiny_llama(), policy="frugal", peft_config=config)


KEPT_ABSENT = [
    ("lm_haed", "has no module 'lm_haed'; did you mean 'lm_head'\\?"),
    ("head", "has no module 'head'; names are whole, or the ends of names after a dot: write lm_head"),
    ("layernorm", "write input_layernorm, post_attention_layernorm"),
    ("model.lm_head", "has no module 'model.lm_head'; did you mean 'lm_head'"),
]


@pytest.mark.parametrize(("name", "said"), KEPT_ABSENT)
def test_absent_modules_to_save_are_refused_in_the_same_words_by_wrap_and_by_runs(name, said):
    config, model = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[name]), tiny_llama()
    with pytest.raises(HybridOptError, match=f"^modules_to_save: LlamaForCausalLM .*{said}"):
        hybridopt.wrap(model, policy="frugal", peft_config=config)
    assert not hasattr(model, "hybrid")
    with torch.device("meta"):
        empty = tiny_llama()
    assert f"modules_to_save: {usual_library().absent_kept(empty, config)}" in str(_refusal(config))


def _refusal(config):
    with pytest.raises(HybridOptError) as caught:
        usual_library().check(tiny_llama(), config)
    return caught.value


@pytest.mark.parametrize("name", ["lm_head", "model.norm", "self_attn.v_proj", "model.embed_tokens"])
def test_whole_names_and_ends_after_a_dot_are_kept_without_a_word(name, recwarn):
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[name])
    usual_library().check(tiny_llama(), config)
    assert not [each for each in recwarn if "modules_to_save" in str(each.message)]


def test_modules_whose_name_only_ends_alike_are_told():
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])
    said = "'norm' is also the end of 'model.layers.0.input_layernorm' and 3 more, .*write 'model.norm'"
    with pytest.warns(HybridOptWarning, match=said):
        usual_library().check(tiny_llama(), config)
