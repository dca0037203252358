"""Models that see what they are to predict are told from those that do not, by what they compute."""

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from hybridopt import HybridOptError
from hybridopt.core.registry import make
from hybridopt.training.running.preparing.choosing import with_head

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
XLM = {"vocab_size": 64, "emb_dim": 32, "n_layers": 1, "n_heads": 4}
BART = {"vocab_size": 64, "d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
GEMMA = SIZES | {"num_key_value_heads": 2, "head_dim": 8}


def leaks(config):
    """Return whether a model's predictions follow a later token."""
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    tokens = torch.arange(5, 15)[None]
    other = tokens.clone()
    other[0, -1] = 40
    with torch.no_grad():
        before, after = (model(input_ids=each).logits[0, :-1] for each in (tokens, other))
    return not torch.equal(before, after)


@pytest.mark.parametrize(
    ("kind", "sizes", "says"),
    [
        ("bert", SIZES, "is_decoder=False"),
        ("roberta", SIZES, "is_decoder=False"),
        ("electra", SIZES, "is_decoder=False"),
        ("bert-generation", SIZES, "is_decoder=False"),
        ("xlm", XLM, "causal=False"),
        ("llama", SIZES | {"is_causal": False}, "is_causal=False"),
        ("gemma3_text", GEMMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("bert", SIZES | {"is_decoder": True}, None),
        ("bart", BART, None),
        ("gpt_neox", SIZES, None),
        ("llama", SIZES, None),
        ("gemma3_text", GEMMA, None),
    ],
)
@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_what_attends_to_later_tokens_is_refused_for_causal_tasks_alone(kind, sizes, says, task):
    config = AutoConfig.for_model(kind, **sizes)
    assert leaks(config) == (says is not None)
    if says is None:
        assert with_head(config, make("tasks", task))
        return
    with pytest.raises(HybridOptError, match=f"'{kind}' attends to later tokens .{says} in its config.json.*classify"):
        with_head(config, make("tasks", task))
    if kind in ("bert", "roberta", "electra"):
        assert with_head(config, make("tasks", "classify"), ("no", "yes")).num_labels == 2
