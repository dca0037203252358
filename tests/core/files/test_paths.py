"""Impossible paths are one error, wherever a path is taken."""

from pathlib import Path

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt import HybridOptError, Policy
from hybridopt.core.files import plain_json, tensors
from hybridopt.core.files.paths import path_of
from hybridopt.integrations.addax.assignment import Assignment
from hybridopt.planning.subject.source import subject_of
from hybridopt.saving.rebuilding.replay import Replay

BAD = {
    "NUL": ("a\0b", "NUL character"),
    "long name": ("x" * 256, "name too long"),
    "long name of two bytes": ("é" * 128, "too long"),
    "long path": ("ab/" * 1500, "too long"),
    "half a surrogate pair": ("a\ud800", "cannot be written"),
    "empty": ("", "give the path"),
    "bytes": (b"abc", "give the path"),
    "number": (7, "give the path"),
    "none": (None, "give the path"),
}


def wrapped():
    return hybridopt.wrap(nn.Sequential(nn.Linear(4, 4)), policy="frugal")


ENTRIES = {
    "save_pretrained": lambda path: wrapped().hybrid.save_pretrained(path),
    "from_pretrained": lambda path: hybridopt.from_pretrained(nn.Linear(4, 4), path),
    "load": lambda path: hybridopt.load(path),
    "plain_json.read": lambda path: plain_json.read(path),
    "plain_json.write": lambda path: plain_json.write(path, {}),
    "tensors.save": lambda path: tensors.save({"x": torch.ones(2)}, path),
    "tensors.load": lambda path: tensors.load(path),
    "Replay": lambda path: Replay(path, []),
    "Assignment.load": lambda path: Assignment.load(path),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("entry", ENTRIES)
def test_paths_that_no_file_system_has(entry, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, words = BAD[kind]
    with pytest.raises(HybridOptError, match=words):
        ENTRIES[entry](path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["NUL", "long name", "long path", "half a surrogate pair"])
@pytest.mark.parametrize("entry", ["wrap", "Policy.from_json", "plan"])
def test_paths_where_a_name_may_be_given_too(entry, kind):
    path, words = BAD[kind]
    with pytest.raises(HybridOptError, match=words):
        if entry == "wrap":
            hybridopt.wrap(nn.Linear(4, 4), policy=f"{path}.json" if kind != "long path" else Path(path))
        elif entry == "plan":
            subject_of(path)
        else:
            Policy.from_json(Path(path))


def test_what_is_a_path(tmp_path):
    assert path_of(str(tmp_path), "directory") == path_of(tmp_path, "directory") == tmp_path
    assert path_of("x" * 255, "path") == Path("x" * 255)


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null", "/dev/null/below"])
def test_places_where_nothing_can_be_made(place):
    if not Path(place).parent.exists():
        pytest.skip("no such system")
    with pytest.raises(HybridOptError, match=place):
        wrapped().hybrid.save_pretrained(place)
    with pytest.raises(HybridOptError, match=place):
        hybridopt.from_pretrained(nn.Linear(4, 4), place)
