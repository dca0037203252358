"""The search: what fits comes first and in rank, every choice can be pasted, and what does not fit is told why."""

import json
import subprocess
import sys
from dataclasses import fields
from inspect import signature

import pytest
import typer
from models import tiny_llama
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli_plan import plan as command
from hybridopt.planning import Estimator, Request, parse_size, search
from hybridopt.planning.calls import calls
from hybridopt.planning.model import Source
from hybridopt.planning.ways import WAYS

SETTINGS = {
    "model_type": "llama", "hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024,
}  # fmt: skip
SIZE = {"seq_len": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def choices(config):
    return search(config, "20MiB", **SIZE)


def test_what_fits_comes_first_and_in_rank(choices):
    fits = [c.fits for c in choices]
    assert fits == sorted(fits, reverse=True) and any(fits) and not all(fits)
    for part in (True, False):
        ranks = [WAYS.index(c.way) for c in choices if c.fits is part]
        assert ranks == sorted(ranks)
    assert {c.way.title for c in choices} == {way.title for way in WAYS}


def test_a_choice_fits_if_its_own_plan_does(choices, config):
    estimator = Estimator(Source("it", SETTINGS))
    for choice in (choices[0], choices[-1]):
        assert estimator.estimate(choice.request).peak_bytes == choice.estimate.peak_bytes
        assert choice.fits == (choice.estimate.peak_bytes <= parse_size("20MiB"))


def test_what_does_not_fit_has_a_change_that_does(choices):
    assert any(c.change for c in choices if not c.fits)
    assert not any(c.change for c in choices if c.fits)


def test_the_mildest_variant_that_fits_is_taken(config):
    best = search(config, "10GiB", **SIZE)[0]
    assert best.way is WAYS[0] and (best.request.release, best.request.checkpointing) == ("accumulate", False)


def test_only_what_was_asked_for_is_searched(config):
    found = search(config, "1GiB", asked={"lora": 16, "quantization": "nf4"}, **SIZE)
    assert found and all(c.request.lora == 16 and c.request.quantization == "nf4" for c in found)
    found = search(config, "1GiB", asked={"lora": 3}, **SIZE)
    assert found and all(c.request.lora == 3 and "LoraConfig(r=3" in c.code for c in found)
    with pytest.raises(HybridOptError, match="no known way to train has {'quantization': 'fp4'}"):
        search(config, "1GiB", asked={"quantization": "fp4"}, **SIZE)


def test_nothing_that_fits_says_what_is_missing(config):
    with pytest.raises(HybridOptError, match=r"nothing fits into 0\.00 GiB: the least, .*GiB are missing"):
        search(config, "1MiB", **SIZE)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_the_lines_to_paste_run(way):
    """On a tiny model; they give the policy, adapters, quantization and release that were planned."""
    request = Request(**way.settings, **SIZE).but(checkpointing=True)
    names = {"model": tiny_llama().bfloat16(), "hybridopt": hybridopt}
    exec(calls(request, way.lr), names)  # the package's own text
    model, optimizer = names["model"], names["optimizer"]
    assert model.hybrid.policy == request.ready and model.hybrid.quantization == request.quantization
    assert optimizer.release == request.release and bool(request.lora) == hasattr(model, "peft_config")
    assert model.is_gradient_checkpointing


def invoke(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_prints_one_object(config):
    shared = ("--policy", "frugal", "--density", 0.5, "--codec", "int8", "--seq-len", 64, "--release", "fused")
    done = invoke(config, *shared, "--option", "update_gap=7", "--gpu", "1GiB", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    parts = ("weights", "quantization", "gradients", "state", "activations", "temporaries", "overhead")
    assert found["peak_bytes"] == sum(found[f"{part}_bytes"] for part in parts)
    assert found["fits"] is True and "missing_bytes" not in found
    assert found["request"]["options"] == {"density": 0.5, "codec": "int8", "update_gap": 7}
    small = json.loads(invoke(config, *shared, "--gpu", "100MiB", "--json").stdout)
    assert small["fits"] is False and small["missing_bytes"] == small["peak_bytes"] - 100 * 2**20


def test_the_command_shows_a_table_or_the_ways_that_fit(config):
    one = invoke(config, "--policy", "adamw", "--seq-len", 64, "--gpu", "2GiB")
    assert one.exit_code == 0 and "fits into 2.00 GiB" in one.output and "█" in one.output
    many = invoke(config, "--seq-len", 64, "--gpu", "2GiB", "--device", "cpu")
    assert many.exit_code == 0 and 'hybridopt.wrap(model, policy="adamw")' in many.output


def test_the_command_refuses_bad_input(config):
    for arguments, text in {
        ("llama-3-9b",): "closest are llama-3-8b",
        (config, "--gpu", "80"): "has no unit",
        (config, "--option", "density"): "write key=value",
        (config, "--policy", "adamv"): "did you mean 'adamw'",
    }.items():
        assert text in str(invoke(*arguments).exception)


def test_the_command_asks_for_every_field_of_a_request():
    own = {f.name for f in fields(Request)} - {"seed", "options"}
    assert own <= set(signature(command).parameters)


def test_planning_is_not_imported_with_the_package():
    code = "import sys, hybridopt.cli; sys.exit('hybridopt.planning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
