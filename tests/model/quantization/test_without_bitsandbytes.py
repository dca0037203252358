"""Without bitsandbytes every door that takes quantization= says so, with the cure, before anything is changed."""

import sys
from importlib.machinery import PathFinder

import pytest
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.planning import Request, plan_live
from support.models import tiny_llama

LIBRARY = "bitsandbytes"
SCHEMES = ("nf4", "fp4", "int8")


@pytest.fixture
def missing(monkeypatch):
    """A machine on which bitsandbytes is not installed."""
    found = PathFinder.find_spec
    for name in [name for name in sys.modules if name.split(".")[0] == LIBRARY]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        PathFinder, "find_spec", lambda name, *more: None if name.split(".")[0] == LIBRARY else found(name, *more)
    )


def refused(scheme, work):
    words = f"quantization='{scheme}' needs bitsandbytes, which is not installed here: pip install bitsandbytes"
    with pytest.raises(HybridOptError, match=words):
        work()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_wrap(missing, scheme):
    model = tiny_llama(layers=1)
    before = {name: type(module) for name, module in model.named_modules()}
    refused(scheme, lambda: hybridopt.wrap(model, quantization=scheme))
    assert {name: type(module) for name, module in model.named_modules()} == before and not hasattr(model, "hybrid")


def test_plans(missing):
    refused("nf4", lambda: Request(policy="adamw", quantization="nf4", lora=8))
    refused("int8", lambda: Request(policy="adamw", quantization="int8", lora=8))
    done = CliRunner().invoke(app, ["plan", "llama-3-8b", "--policy", "adamw", "--lora", "8", "--quantization", "nf4"])
    assert isinstance(done.exception, HybridOptError) and "needs bitsandbytes" in str(done.exception)


def test_load(missing, tmp_path):
    tiny_llama(layers=1).save_pretrained(tmp_path)
    refused("nf4", lambda: hybridopt.load(tmp_path, quantization="nf4"))


def test_a_saved_folder(tmp_path, request):
    hybridopt.wrap(tiny_llama(layers=1), "qzo", quantization="nf4").hybrid.save_pretrained(tmp_path)
    request.getfixturevalue("missing")
    model = tiny_llama(layers=1)
    refused("nf4", lambda: hybridopt.from_pretrained(model, tmp_path))
    assert not hasattr(model, "hybrid")


def test_what_needs_no_library_works(missing):
    model = hybridopt.wrap(tiny_llama(layers=1), quantization="int8-trainable")
    assert plan_live(model, seq_len=8, batch_size=1).peak_bytes > 0
    assert LIBRARY not in sys.modules


def test_a_broken_installation_counts_as_none(monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARY, None)
    refused("nf4", lambda: hybridopt.wrap(tiny_llama(layers=1), quantization="nf4"))
