"""Models that are not like LLaMA: other labels, positions in a table, layers of several kinds."""

import json

import pytest
import typer
from typer.testing import CliRunner

import hybridopt
from benchmarks.plan_grid import measure as plan_measure
from hybridopt import HybridOptError
from hybridopt.cli.plan.command import plan as command
from hybridopt.planning import Estimator, Request, estimator, plan, plan_live, tokens
from hybridopt.planning.subject.model import Subject
from hybridopt.planning.trace.layer_pattern import Rhythm, rhythm_of
from support.models import tiny_gpt2

pytestmark = pytest.mark.slow

SIZE = {"seq_len": 48, "batch": 2, "device": "cpu"}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 512}
DECODER = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 16}
BERT = {"model_type": "bert", **SHAPE, "num_hidden_layers": 3, "max_position_embeddings": 64}
LLAMA = {"model_type": "llama", **DECODER, "num_hidden_layers": 3}
KINDS = {  # whose layers differ
    "experts in every second layer": {"model_type": "qwen3_moe", **DECODER, **EXPERTS, "decoder_sparse_step": 2},
    "no experts later on": {"model_type": "qwen3_moe", **DECODER, **EXPERTS, "mlp_only_layers": [5, 6, 7]},
    "a window later on": {"model_type": "qwen2", **DECODER, **WINDOW, "max_window_layers": 5},
    "no window in every third": {"model_type": "gemma3_text", **DECODER, "sliding_window": 16,
                                 "sliding_window_pattern": 3},
}  # fmt: skip
HOW = {"policy": "signsgd", "release": "fused"}


TURNS = ("experts in every second layer", "no window in every third")


def layered(name, depth=8):
    return Subject(name, KINDS[name] | {"num_hidden_layers": depth})


@pytest.mark.parametrize("name", KINDS)
def test_layers_of_several_kinds_are_planned_as_they_are(name):
    request = Request(**HOW, **SIZE).but(seq_len=160)
    found = Estimator(layered(name)).estimate(request).peak_bytes
    assert found == pytest.approx(plan_measure.counted(layered(name), request, 1), rel=0.03)


@pytest.mark.parametrize("name", TURNS)
def test_what_few_layers_tell_is_what_all_of_them_tell(name, monkeypatch):
    told, request = [], Request(**HOW, **SIZE)
    for function in ("simulate", "extrapolate"):
        kept = getattr(estimator, function)
        monkeypatch.setattr(estimator, function, lambda *a, kept=kept: told.append(kept(*a)) or told[-1])
    Estimator(layered(name, 14)).estimate(request)
    monkeypatch.setattr(estimator, "rhythm", lambda *_: None)
    Estimator(layered(name, 14)).estimate(request)
    one, other, found, whole = told
    assert one.depth + other.depth < found.depth == whole.depth
    assert [(m.stage, m.done) for m in found.moments] == [(m.stage, m.done) for m in whole.moments]
    assert [m.total for m in found.moments] == pytest.approx([m.total for m in whole.moments], rel=0.002)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("aaaaaaaa", Rhythm(1, 1)),
        ("xaaaaaaa", Rhythm(1, 1)),
        ("xyaaaaaaaaaa", Rhythm(2, 1)),
        ("abababababab", Rhythm(1, 2)),
        ("aabaabaabaabaabaab", Rhythm(1, 3)),
        ("aaaabbbbbbbb", Rhythm(4, 1)),
        ("aaaabbbbbb", None),
        ("aaaa", None),
    ],
)
def test_the_order_of_kinds(kinds, found):
    assert rhythm_of(kinds) == found
    if found is not None:
        ends = [kinds[: n - found.period][-1:] + kinds[-found.period :] for n in found.short(len(kinds))]
        assert all(len(end) == found.period + 1 for end in ends)


def labelled(model, optimizer, ids, passes):
    model(input_ids=ids, labels=ids[:, 0] % 2).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "settings",
    [
        BERT | {"architectures": ["BertForSequenceClassification"]},
        LLAMA | {"architectures": ["LlamaForSequenceClassification"], "pad_token_id": 0},
    ],
    ids=lambda settings: settings["model_type"],
)
def test_models_that_classify_sequences(settings, monkeypatch):
    source, request = Subject("it", settings), Request(policy="signsgd", lora=4, **SIZE)
    monkeypatch.setattr(plan_measure, "step", labelled)
    found = Estimator(source).estimate(request).peak_bytes
    assert found == pytest.approx(plan_measure.counted(source, request, 1), rel=0.03)
    model, _ = plan_measure.prepared(source, request)
    assert plan_live(model, seq_len=48, batch_size=2).peak_bytes == found


@pytest.mark.parametrize("more", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "multi_label_classification"}])
def test_labels_that_are_values(more):
    settings = BERT | {"architectures": ["BertForSequenceClassification"]} | more
    assert Estimator(Subject("it", settings)).estimate(Request(policy="adamw", **SIZE)).peak_bytes > 0


@pytest.mark.parametrize(
    ("name", "limit"), [("bert", 512), ("gpt2", 1024), ("opt-1.3b", 2048), ("llama-3-8b", 2048), ("gemma-2-2b", 2048)]
)
def test_nobody_says_how_long_sequences_are(name, limit):
    assert tokens(name) == limit


@pytest.mark.parametrize(
    "more",
    [
        {"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1},
        {"model_type": "opt", "max_position_embeddings": 64, "ffn_dim": 128, "word_embed_proj_dim": 64},
    ],
    ids=lambda more: more["model_type"],
)
def test_rows_for_padding_are_no_positions(more, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BERT | more))
    assert tokens(tmp_path) == 64


def test_the_command_takes_as_many_tokens_as_there_are_positions(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BERT | {"architectures": ["BertForMaskedLM"]}))
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(tmp_path), "--policy", "adamw", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["request"]["seq_len"] == 64


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(HybridOptError, match=r"seq_len=2048 is not allowed: GPT2LMHeadModel has 1024 positions.*1024"):
        plan("gpt2", Request(policy="adamw", lora=4, seq_len=2048))


def test_a_live_model_takes_as_many_tokens_as_it_has_positions():
    model = hybridopt.wrap(tiny_gpt2(), policy="adamw")
    assert plan_live(model).request.seq_len == 64
    with pytest.raises(HybridOptError, match="seq_len=65 is not allowed"):
        plan_live(model, seq_len=65)


def test_rotary_embeddings_that_grow():
    """They are worked out anew from what tokens there are, which nobody knows."""
    grows = {"rope_scaling": {"rope_type": "dynamic", "factor": 8.0}, "max_position_embeddings": 32}
    request = Request(policy="adamw", **SIZE)
    found, plain = (Estimator(Subject("it", LLAMA | more)).estimate(request) for more in (grows, {}))
    assert found.parts == plain.parts


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (BERT | {"architectures": ["BertModel"]}, "BertModel returns no loss"),
        (BERT | {"architectures": ["BertForPreTraining"]}, "BertForPreTraining returns no loss"),
        (
            {"model_type": "vit", **SHAPE, "num_hidden_layers": 3, "architectures": ["ViTForImageClassification"]},
            r"ViTForImageClassification does not run on input_ids \[2, 48\]",
        ),
    ],
)
def test_models_that_need_other_inputs_are_refused(settings, text):
    with pytest.raises(HybridOptError, match=text):
        Estimator(Subject("it", settings)).estimate(Request(policy="adamw", **SIZE))
