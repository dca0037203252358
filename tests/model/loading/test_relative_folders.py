"""Folders that were named from one directory, and are used from another: jobs and notebooks change theirs."""

import shutil
from pathlib import Path

import pytest
import torch

import hybridopt
from hybridopt import Placement
from support import placed as tiny
from support.models import batch


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to another directory than that of the folder `base`, which is the first."""
    shutil.copytree(tiny.folder(), tmp_path / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return lambda: monkeypatch.chdir("elsewhere")


def logits(model):
    with torch.no_grad():
        return model(**batch(model)).logits


@pytest.mark.parametrize("how", [{}, {"dtype": torch.float32}], ids=["read in place", "kept in a cache"])
def test_layers_are_fetched_from_where_they_were_found(how, elsewhere, tmp_path):
    model = hybridopt.load("base", placement=Placement("disk", slots=2, cache="kept"), **how)
    before = logits(model)
    elsewhere()
    assert torch.equal(logits(model), before)
    again = Placement("disk", slots=2, cache=tmp_path / "kept")
    assert torch.equal(logits(hybridopt.load(tmp_path / "base", placement=again, **how)), before)
    assert len(list((tmp_path / "kept").iterdir())) == 1  # one base, however it is named
    assert not list(Path().iterdir())


def test_trained_layers_are_written_where_the_cache_was_named(elsewhere, tmp_path):
    model = hybridopt.load("base", placement=Placement("disk", slots=2, cache="working", write_every=1))
    shutil.rmtree("working", ignore_errors=True)  # which is made again when it is written to
    elsewhere()
    optimizer = hybridopt.wrap(model, policy="mezo").hybrid.optimizer(lr=1e-3)
    optimizer.step(lambda: model(**batch(model)).loss)
    logits(model)
    assert (tmp_path / "working").is_dir() and not list(Path().iterdir())


def test_layers_of_a_model_in_memory_are_kept_where_the_cache_was_named(elsewhere):
    where = Placement("disk", slots=2, cache="kept")
    model = hybridopt.wrap(hybridopt.load("base"), policy="mezo", placement=where)
    before = logits(model)
    elsewhere()
    assert torch.equal(logits(model), before)
