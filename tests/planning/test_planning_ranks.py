"""What one of several GPUs takes: shards and gathered layers, or replicas and buckets, as real processes do."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

import hybridopt
from benchmarks.plan_grid.ranks import measured_on_rank
from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.planning import Estimator, Request, search
from hybridopt.planning.subject.model import Subject
from support.models import tiny_llama
from support.ranks import Ranks

SMALL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 333,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1001,
    "tie_word_embeddings": False,
}
LLAMA = Subject("llama", SMALL)
SIZE = {"seq_len": 48, "batch": 2, "device": "cpu", "dtype": "fp32"}
CELLS = [{"policy": policy, "parallel": "fsdp"} for policy in ("adamw", "frugal")]
CELLS.append({"policy": "muon", "parallel": "ddp"})


@pytest.fixture(scope="module")
def two():
    made = Ranks(2)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", CELLS, ids=lambda how: " ".join(how.values()))
def test_a_plan_is_within_one_percent_of_each_process(how, two):
    request = Request(**how, **SIZE, gpus=2)
    planned = Estimator(LLAMA).estimate(request).peak_bytes
    for measured in two.run(measured_on_rank, LLAMA, request):
        assert planned == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_a_rank_has_its_rows_and_room_for_those_of_the_first(ranks):
    alone, one = (Estimator(LLAMA).estimate(Request(policy="adamw", **SIZE, gpus=n)) for n in (1, ranks))
    width, inner, words = 128, 333, 1001
    layer = 4 * [(width, width)] + 2 * [(inner, width)] + [(width, inner)] + 2 * [(width,)]
    shapes = 4 * layer + 2 * [(words, width)] + [(width,)]
    rows = sum(math.ceil(shape[0] / ranks) * math.prod(shape[1:]) for shape in shapes)
    buffers = alone.weights_bytes - 4 * sum(map(math.prod, shapes))
    assert one.weights_bytes - buffers == 4 * rows
    assert one.state_bytes == 8 * rows  # two moments
    assert one.gradients_bytes <= 4 * rows + 4 * sum(map(math.prod, layer))
    assert one.peak_bytes < alone.peak_bytes and one.collectives_bytes > 0 == alone.collectives_bytes


def test_a_matrix_rule_keeps_its_state_on_the_rank_that_updates():
    alone, one = (Estimator(LLAMA).estimate(Request(policy="muon", **SIZE, gpus=n)) for n in (1, 2))
    assert 0.5 * alone.state_bytes <= one.state_bytes < 0.6 * alone.state_bytes


def test_replicas_have_everything_and_buckets():
    alone, one = (Estimator(LLAMA).estimate(Request(policy="signsgd", **SIZE, gpus=n, parallel="ddp")) for n in (1, 2))
    trained = 4 * one.trained_parameters
    assert one.collectives_bytes == trained and one.weights_bytes == alone.weights_bytes
    assert one.peak_bytes == alone.peak_bytes + trained


@pytest.mark.parametrize("lora", [None, 8])
def test_rows_that_probes_shift_are_kept_as_they_were(lora):
    size = SIZE | {"seq_len": 1024, "lora": lora}  # most is taken in a forward pass
    sharded, alone = (Estimator(LLAMA).estimate(Request(policy="mezo", **size, gpus=n)) for n in (2, 1))
    beside = sharded.temporaries_bytes - alone.temporaries_bytes
    assert beside == pytest.approx(4 * sharded.trained_parameters / 2, rel=0.03)


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_codes_of_4_bits_are_cut_and_others_stay_whole_beside_adapters_that_are_cut(scheme):
    how = {"policy": "adamw", "lora": 8, "quantization": scheme}
    alone, one = (Estimator(LLAMA).estimate(Request(**how, **SIZE, gpus=n)) for n in (1, 2))
    assert one.quantization_bytes == alone.quantization_bytes
    assert one.state_bytes == pytest.approx(alone.state_bytes / 2, rel=0.01)
    if scheme == "nf4":
        assert one.weights_bytes == pytest.approx(alone.weights_bytes / 2, rel=0.01)
    else:
        assert alone.weights_bytes > one.weights_bytes > 0.6 * alone.weights_bytes


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"gpus": 0}, "gpus=0 is not allowed"),
        ({"gpus": 2, "parallel": "zero3"}, "parallel='zero3' is not known; Known: ddp, fsdp"),
        ({"gpus": 2, "placement": "disk"}, "placement='disk' is not allowed with gpus=2"),
        ({"gpus": 2, "quantization": "int8-trainable"}, "'int8-trainable' is not allowed with gpus=2.*parallel='ddp'"),
    ],
)
def test_what_cannot_be_is_refused(how, text):
    with pytest.raises(HybridOptError, match=text):
        Request(policy="adamw", **SIZE | how)


def test_state_that_is_too_small_for_8_bits_is_cut_as_any_other():
    small = Subject("llama", SMALL | {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 64})
    plain, coded = (
        Estimator(small).estimate(Request(policy="adamw", **SIZE, gpus=2, options=options))
        for options in ({}, {"codec": "int8"})
    )
    assert coded.state_bytes == pytest.approx(plain.state_bytes, rel=0.02)  # vectors have one owner


def test_the_search_says_what_fits_on_two():
    size = SIZE | {"dtype": "bf16"}
    room = Estimator(LLAMA).estimate(Request(policy="adamw", **size, gpus=2)).peak_bytes
    alone = search(LLAMA, room, margin=0, enough=1, **size)
    two = search(LLAMA, room, margin=0, enough=1, gpus=2, **size)
    assert two[0].fits and two[0].way.title == "AdamW" and two[0].way.title != alone[0].way.title
    assert "for layer in next(" in two[0].code and "fully_shard(model)" in two[0].code
    assert "fully_shard" not in alone[0].code


def test_the_command_plans_one_of_several(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"architectures": ["LlamaForCausalLM"]}))
    words = ["plan", str(tmp_path), "--policy", "adamw", "--seq-len", "48", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--gpus", "2", "--parallel", "ddp", "--json"])
    found = json.loads(done.stdout)
    assert found["request"]["gpus"] == 2 and found["collectives_bytes"] == 2 * found["trained_parameters"]
    shown = CliRunner().invoke(app, [*words, "--gpus", "2"]).stdout
    assert "collectives" in shown and "one of 2 GPUs (FSDP)" in shown
    assert "collectives" not in CliRunner().invoke(app, words).stdout
    assert "gpus=0" in str(CliRunner().invoke(app, [*words, "--gpus", "0"]).exception)


def test_a_model_that_is_loaded_is_planned_for_several():
    model = hybridopt.wrap(tiny_llama(), policy="adamw")
    alone, one = (model.hybrid.plan(seq_len=16, gpus=n) for n in (1, 2))
    assert one.state_bytes == pytest.approx(alone.state_bytes / 2, rel=0.02)
    assert model.hybrid.plan(seq_len=16, gpus=2, parallel="ddp").state_bytes == alone.state_bytes
    assert all(p.device == torch.device("cpu") for p in model.parameters())
