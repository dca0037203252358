"""Sampled inputs in requests, in what is printed of them, and in the lines that set them up."""

import json

import pytest
from typer.testing import CliRunner

from hybridopt import HybridOptError, WtaCrs
from hybridopt.cli.main import app
from hybridopt.model.activations.scheme import read_activations, written
from hybridopt.planning import Request
from hybridopt.planning.ways.calls import calls
from support.models import tiny_llama


@pytest.mark.parametrize("text, scheme", [("wta-crs", WtaCrs()), ("wta-crs:share=0.2", WtaCrs(0.2))])
def test_a_scheme_is_read_as_it_is_written(text, scheme):
    assert read_activations(text, "wrap") == scheme
    assert written(scheme) == text
    assert Request(activations=text) == Request(activations=scheme)
    assert f'activations="{text}"' in calls(Request(activations=text), 1e-3)


@pytest.mark.parametrize(
    "text, why",
    [
        ("wta", "did you mean 'wta-crs'"),
        ("wta-crs:share", "write it like 'wta-crs:share=0.2'"),
        ("wta-crs:share=0", "share=0 is not allowed"),
        ("wta-crs:rows=3", "wta_crs has no option 'rows'"),
    ],
)
def test_what_is_no_scheme_is_refused(text, why):
    with pytest.raises(HybridOptError, match=why):
        read_activations(text, "wrap")


@pytest.mark.parametrize("how", [{"checkpointing": True}, {"policy": "mezo"}])
def test_a_request_refuses_what_wrap_refuses(how):
    with pytest.raises(HybridOptError, match=r"activations=.* is not allowed with"):
        Request(activations="wta-crs", **how)


def test_the_command_plans_less_and_says_what_it_has_planned(tmp_path):
    tiny_llama().config.save_pretrained(tmp_path)
    args = ["plan", str(tmp_path), "--policy", "adamw", "--seq-len", "64", "--batch", "16", "--device", "cpu"]
    sampled = ["--activations", "wta-crs:share=0.2"]
    whole, less = (json.loads(CliRunner().invoke(app, [*args, "--json", *more]).stdout) for more in ([], sampled))
    assert less["activations_bytes"] < whole["activations_bytes"]
    assert "wta-crs:share=0.2" in " ".join(CliRunner().invoke(app, [*args, *sampled]).stdout.split())


def test_a_search_takes_no_activations(tmp_path):
    tiny_llama().config.save_pretrained(tmp_path)
    found = CliRunner().invoke(app, ["plan", str(tmp_path), "--gpu", "24GiB", "--activations", "wta-crs"])
    assert "give --policy, too" in f"{found.output}{found.exception}"
