"""Names of the hub: their config.json is read from the cache, and where it is not to be had that is said."""

import io
import json
import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants
from rich.console import Console

from hybridopt import HybridOptError
from hybridopt.core.budget import budget
from hybridopt.planning import Request, plan, table
from hybridopt.planning.subject.hub import CACHED, is_hub_name
from hybridopt.planning.subject.source import SHIPPED, subject_of
from hybridopt.planning.ways.choice import Choice
from hybridopt.planning.ways.ways import WAYS
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


def test_shipped_ones_are_asked_of_the_hub_only_by_names_of_the_hub(cache):
    """Where it has the model, its own configuration counts; where not, the table that is shipped."""
    name = "meta-llama/Llama-3.1-8B-Instruct"
    found = subject_of(name)
    assert (found.name, found.source, found.place) == ("llama-3.1-8b", SHIPPED, name)
    folder = cache.parents[2] / "models--meta-llama--Llama-3.1-8B-Instruct"
    shutil.copytree(cache.parents[1], folder)
    found = subject_of(name)
    assert (found.name, found.source, found.place) == (name, CACHED, name) and found.depth < 32
    known = subject_of("llama-3.1-8b")
    assert (known.source, known.place, known.depth) == (SHIPPED, None, 32)


def test_nobody_waits_long_for_what_is_shipped(cache, monkeypatch):
    asked = []

    def gone(url, timeout):
        asked.append(timeout)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", gone)
    assert subject_of("Qwen/Qwen3-8B").name == "qwen3-8b"
    with pytest.raises(HybridOptError, match="no network"):
        subject_of("some/other")
    assert asked[0] < asked[1] <= 5


def test_paths_are_not_asked_of_the_hub(cache):
    assert subject_of(cache).settings["model_type"] == "llama" and subject_of(cache).place == str(cache)
    for name in ("gpt5", "./some/model", "/some/model", "some/model/x", "../x"):
        assert not is_hub_name(name)
        text = "there is no (such file|folder)" if "/" in name else "no known architecture"
        with pytest.raises(HybridOptError, match=text):
            subject_of(name)


def test_the_command_to_train_names_what_can_be_loaded(cache):
    config = cache / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    room = budget("rtx 4090")
    found = plan("some/model", Request(policy="adamw", seq_len=8, device="cpu"))
    known = Choice(WAYS[0], found, True, 1e-4, place="some/model")
    assert known.command(room) == "hybridopt train some/model DATA --gpu 'rtx 4090'"
    assert Choice(WAYS[0], found, True, 1e-4).command(budget(2**30)) == "hybridopt train MODEL DATA --gpu 1073741824B"
    console = Console(width=80, file=io.StringIO())
    console.print(table.choices_table([known], room), crop=False)
    told = console.file.getvalue()
    assert 0 < told.index(known.command(room)) < told.index(known.script)
