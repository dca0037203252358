"""Settings of which no model can be made are refused at once, by key, value and what is allowed."""

import json

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig

from hybridopt import HybridOptError
from hybridopt.cli.plan.command import plan as command
from hybridopt.planning import Request, plan, search, tokens
from hybridopt.planning.subject.settings import check_settings

LLAMA = {"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 64}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
MOE = {"model_type": "qwen3_moe", "num_experts": 8}


@pytest.fixture
def folder(tmp_path):
    def write(**settings):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return write


SIZES = [
    ("num_hidden_layers", 10**9, "from 1 to 1024"),
    ("num_hidden_layers", 0, "from 1 to 1024"),
    ("num_hidden_layers", -1, "from 1 to 1024"),
    ("num_hidden_layers", "2", "from 1 to 1024"),
    ("num_hidden_layers", 2.5, "from 1 to 1024"),
    ("hidden_size", 10**12, "from 1 to 1048576"),
    ("hidden_size", True, "from 1 to 1048576"),
    ("vocab_size", 10**15, "from 1 to 268435456"),
    ("vocab_size", 0, "from 1 to"),
    ("intermediate_size", 0, "from 1 to"),
    ("num_attention_heads", 0, "from 1 to"),
    ("max_position_embeddings", 10**14, "from 1 to 2147483648"),
    ("num_key_value_heads", 3, "a divisor of num_attention_heads=4"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), SIZES)
def test_sizes_name_the_key_its_value_and_what_is_allowed(key, value, allowed, folder):
    with pytest.raises(HybridOptError) as error:
        plan(folder(**{**LLAMA, key: value}), Request(policy="adamw", seq_len=8))
    assert f"{key}={value!r} is not allowed; give" in str(error.value) and allowed in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "gpt2", "n_layer": -1}, "n_layer=-1 .* from 1 to 1024"),
        ({"model_type": "gpt2", "num_hidden_layers": -1}, "num_hidden_layers=-1 .* from 1 to 1024"),
        ({"model_type": "t5", "d_model": -1}, "d_model=-1 .* from 1 to"),
        ({"model_type": "mamba", "state_size": -1}, "state_size=-1 .* from 0 to"),
        ({**MOE, "num_experts": -3}, "num_experts=-3 .* from 0 to 65536"),
        ({**MOE, "num_experts_per_tok": 500}, "num_experts_per_tok=500 .* at most the 8 experts"),
        ({"model_type": "llava", "text_config": {**LLAMA, "num_hidden_layers": 0}}, "num_hidden_layers=0 is not"),
        ({"model_type": "lama"}, "model_type='lama' is not known to transformers .*llama"),
    ],
)
def test_other_kinds_of_models_by_their_own_names(settings, says, folder):
    with pytest.raises(HybridOptError, match=says):
        tokens(folder(**settings))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 65),
        ("hidden_size", None),
        ("rms_norm_eps", "a"),
        ("hidden_act", "nope"),
        ("hidden_act", 3),
        ("head_dim", 7),
        ("pad_token_id", 10**9),
        ("rope_parameters", "x"),
    ],
)
def test_what_only_the_model_knows_is_traced_to_one_key(key, value, folder):
    with pytest.raises(HybridOptError) as error:
        plan(folder(**{**LLAMA, key: value}), Request(policy="adamw", seq_len=8))
    text = str(error.value)
    assert f"{key}={value!r} is not allowed beside the other settings; a model of 'llama' may have {key}=" in text
    assert "Error" not in text and "expected" not in text and "validat" not in text


def test_every_way_in_refuses_them(folder):
    absurd = folder(**{**LLAMA, "num_hidden_layers": 10**9})
    config = LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"})
    config.num_hidden_layers = 10**9
    for way in (
        lambda: plan(config, Request(policy="adamw")),
        lambda: search(absurd, "24GiB"),
        lambda: command(absurd, policy="adamw"),
        lambda: command(absurd, gpu="24GiB"),
    ):
        with pytest.raises(HybridOptError, match="num_hidden_layers=1000000000 is not allowed"):
            way()


def test_a_model_without_a_class_to_train_says_so(folder):
    with pytest.raises(HybridOptError, match="architectures=None names no class.*'t5' has no causal language model"):
        plan(folder(model_type="t5"), Request(policy="adamw", seq_len=8))


USUAL = ["llama", "gpt2", "t5", "xlnet", "mamba", "rwkv", "qwen3_moe", "deepseek_v3", "phi3", "glm5_next"]


@pytest.mark.parametrize("kind", [*USUAL, "llava", "aria", "mpt", "dbrx"])
def test_what_transformers_itself_makes_is_allowed(kind):
    check_settings(kind, CONFIG_MAPPING[kind]().to_dict())


@pytest.mark.parametrize(("name", "most"), [("seq_len", 2**27), ("batch", 2**20), ("lora", 2**16)])
def test_a_request_has_limits_too(name, most):
    with pytest.raises(HybridOptError, match=rf"{name}=1000000000000 is not allowed; .* to {most}$"):
        Request(policy="adamw", **{name: 10**12})


def test_a_pass_has_no_more_tokens_than_bytes_are_counted_of():
    with pytest.raises(HybridOptError, match="batch=1000000 sequences of seq_len=1000000 are 1000000000000 tokens"):
        Request(policy="adamw", batch=10**6, seq_len=10**6)
    assert Request(policy="adamw", batch=2**20, seq_len=2**12, micro_batches=2**40).seq_len == 2**12
