"""Planned peaks are those of real training steps: every storage counted as long as it lives, op by op."""

import pytest
import torch

from benchmarks.plan_grid.measure import SOURCES, counted, prepared
from hybridopt.planning import Estimator, Request, plan_live
from hybridopt.planning.subject.model import Subject

pytestmark = pytest.mark.slow

SMALL = {"num_hidden_layers": 5, "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384}
SMALL_GPT2 = {"n_layer": 5, "vocab_size": 512, "n_embd": 128}
LLAMA, BERT = (Subject(name, SOURCES[name].settings | SMALL) for name in ("llama", "bert"))
GPT2 = Subject("gpt2", SOURCES["gpt2"].settings | SMALL_GPT2)
NARROW = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}
QWEN3 = Subject("qwen3", {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False} | NARROW)
GEMMA = Subject("gemma", {"model_type": "gemma", "head_dim": 16, "tie_word_embeddings": True} | NARROW)
PHI3 = Subject("phi3", {"model_type": "phi3", "pad_token_id": 0} | NARROW)
T5 = Subject(
    "t5",
    {
        "model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4, "vocab_size": 512,
        "architectures": ["T5ForConditionalGeneration"], "decoder_start_token_id": 0, "pad_token_id": 0,
    },
)  # fmt: skip
NARROW_BERT = Subject("bert", BERT.settings | {"hidden_size": 64, "intermediate_size": 192})
SIZE = {"seq_len": 48, "batch": 2, "device": "cpu"}
NF4, INT8 = {"lora": 8, "quantization": "nf4"}, {"lora": 8, "quantization": "int8"}
SAMPLED = {"activations": "wta-crs"}
FUSED, AGAIN = {"release": "fused"}, {"checkpointing": True}
CELLS = [  # every policy, base, release and both ways of keeping activations, in pairs; narrow models, too
    (LLAMA, {"policy": "adamw", "dtype": "fp32", **FUSED}),
    (LLAMA, {"policy": "adamw", "options": {"codec": "int8"}, "micro_batches": 2, **AGAIN}),
    (T5, {"policy": "adamw", "micro_batches": 3, **FUSED}),
    (GEMMA, {"policy": "frugal", **FUSED, **AGAIN}),
    (LLAMA, {"policy": "frugal", **INT8, **AGAIN}),
    (PHI3, {"policy": "galore", **AGAIN}),
    (QWEN3, {"policy": "adalomo", "lora": 8, **AGAIN}),
    (LLAMA, {"policy": "signsgd", **NF4, **AGAIN}),
    (LLAMA, {"policy": "adam_mini", **INT8, **FUSED}),
    (LLAMA, {"policy": "badam", "options": {"update_gap": 1}, **AGAIN}),
    (LLAMA, {"policy": "mezo", "options": {"kind": "gaussian"}}),
    (LLAMA, {"policy": "addax", **NF4, **FUSED}),
    (GPT2, {"policy": "mezo", "options": {"samples": 2}}),
    (BERT, {"policy": "zo_adam", "lora": 8}),
    (LLAMA, {"policy": "frugal", "quantization": "int8-trainable", **AGAIN}),
    (GPT2, {"policy": "signsgd", **NF4, **FUSED}),
    (BERT, {"policy": "frugal", **AGAIN, **FUSED}),
    (LLAMA, {"policy": "adamw", **SAMPLED}),
    (LLAMA, {"policy": "frugal", **NF4, **FUSED, **SAMPLED}),
    (GPT2, {"policy": "frugal", "quantization": "int8-trainable", "micro_batches": 2, **SAMPLED}),
]
STEPS = {"badam": 6}


def names(value):
    return value.name if isinstance(value, Subject) else " ".join(str(v) for v in value.values())


@pytest.mark.filterwarnings("ignore:the output layer is state-free")
@pytest.mark.parametrize(("source", "how"), CELLS, ids=names)
def test_a_plan_is_within_three_percent_of_a_real_step(source, how):
    request = Request(**how, **SIZE)
    planned = Estimator(source).estimate(request).peak_bytes
    assert planned == pytest.approx(counted(source, request, STEPS.get(request.policy, 2)), rel=0.03)


def test_tables_that_the_process_keeps_are_planned():
    """They are 4 % of what a narrow model takes."""
    request = Request(policy="mezo", **SIZE)
    planned = Estimator(NARROW_BERT).estimate(request).peak_bytes
    assert planned == pytest.approx(counted(NARROW_BERT, request), rel=0.005)


def test_a_live_model_is_planned_like_its_config():
    request = Request(policy="frugal", **NF4, **FUSED, **SIZE)
    model, _ = prepared(LLAMA, request)
    live = plan_live(model, seq_len=48, batch_size=2, release="fused")
    assert live.parts == Estimator(LLAMA).estimate(request).parts
    assert live.request.as_dict()["policy"] == "Frugal" and live.request.lora == 8


def test_a_live_model_that_samples_is_planned_like_its_config():
    request = Request(policy="frugal", lora=8, **SAMPLED, **SIZE)
    model, _ = prepared(LLAMA, request)
    live = plan_live(model, seq_len=48, batch_size=2)
    assert live.parts == Estimator(LLAMA).estimate(request).parts
    assert live.request.as_dict()["activations"] == {"part": "activations.wta_crs", "share": 0.3}
    assert live.activations_bytes < 0.8 * Estimator(LLAMA).estimate(request.but(activations=None)).activations_bytes


@pytest.mark.parametrize("how", [{"policy": "frugal", **INT8}, {"policy": "qzo", "quantization": "int8"}], ids=names)
def test_a_step_changes_no_plan_of_an_8_bit_model(how):
    """bitsandbytes moves the codes in the first forward pass."""
    model, _ = prepared(LLAMA, Request(**how, **SIZE))
    before = model.hybrid.memory(seq_len=48, batch_size=2).parts
    tokens = torch.zeros(1, 8, dtype=torch.long)
    model(input_ids=tokens, labels=tokens)
    assert model.hybrid.memory(seq_len=48, batch_size=2).parts == before
    assert Estimator(LLAMA).estimate(Request(**how, **SIZE)).parts == before
