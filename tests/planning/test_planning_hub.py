"""Names of the hub: their config.json is read from the cache, and where it is not to be had that is said."""

import json

import pytest
from huggingface_hub import constants

from hybridopt import HybridOptError
from hybridopt.planning.subject.hub import is_hub_name
from hybridopt.planning.subject.model import subject_of
from support.models import tiny_llama


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An offline hub with one model in its cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--some--model"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    folder = kept / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps(tiny_llama().config.to_dict() | {"auto_map": {"AutoConfig": "x.Y"}})
    )
    return folder


def test_the_configuration_in_the_cache_is_planned(cache):
    found = subject_of("some/model")
    assert found.name == "some/model" and found.depth == tiny_llama().config.num_hidden_layers


def test_what_is_not_to_be_had_says_why_and_what_else_could_be_given(cache):
    with pytest.raises(HybridOptError, match="model='some/other' is no known architecture.*hub's cache.*config.json"):
        subject_of("some/other")


def test_shipped_ones_and_paths_are_not_asked_of_the_hub(cache):
    assert subject_of("meta-llama/Llama-3.1-8B-Instruct").name == "llama-3.1-8b"
    assert subject_of(cache).settings["model_type"] == "llama"
    for name in ("gpt5", "./some/model", "/some/model", "some/model/x", "../x"):
        assert not is_hub_name(name)
        with pytest.raises(HybridOptError, match="no known architecture"):
            subject_of(name)
