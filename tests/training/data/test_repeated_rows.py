"""Rows that are there twice are told, whichever way they came."""

import gzip
import shutil

import pytest

from hybridopt.training.data import repeats
from support.data_files import columns, examples, write_jsonl

ROWS = [{"text": f"line {number}"} for number in range(4)]


@pytest.fixture
def path(tmp_path):
    return write_jsonl(tmp_path / "a.jsonl", ROWS)


def _same(path):
    return path


def _copied(path):
    return shutil.copy(path, path.with_name("b.jsonl"))


def _linked(path):
    other = path.with_name("link.jsonl")
    other.symlink_to(path)
    return other


def _around(path):
    (path.parent / "sub").mkdir()
    return path.parent / "sub" / ".." / path.name


def _folder(path):
    return path.parent


@pytest.mark.parametrize("again", [_same, _copied, _linked, _around, _folder])
def test_a_file_that_is_given_twice_is_told(path, again):
    found = examples(path, again(path))
    assert len(found.train) == 8
    told = [line for line in found.told if line.startswith("data.train: ") and "rows count once more" in line]
    assert len(told) == 1 and "4 rows" in told[0]
    assert ("is named twice" in told[0]) == (again in (_same, _folder))
    assert not any("repeat earlier" in line for line in found.told)


def test_rows_of_unequal_files_are_told_as_rows(path):
    packed = path.with_name("b.jsonl.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert examples(path, packed).told[-1] == ("data.train: 4 of 8 rows repeat earlier ones, and count as often")
    assert "repeat" not in "".join(examples(path).told)


@pytest.mark.parametrize("again", [_same, _copied, _linked, _around])
def test_the_file_that_is_trained_on_is_no_evaluation(path, again, monkeypatch):
    said = "data.eval: 4 of 4 rows are also in data.train; their loss says little"
    other = str(again(path))
    assert examples(path, eval=other).told[-1] == said
    monkeypatch.setattr(repeats, "LOOKED_AT", 7)  # of many rows files are compared alone
    assert examples(path, eval=other).told[-1] == (
        f"data.eval: {other} holds the same as {path} of data.train; its loss says little"
    )


def test_rows_that_are_held_out_of_a_file_given_twice_are_told(path):
    found = examples(path, path, eval=0.5)
    both = set(columns(found.train)["text"]) & set(columns(found.eval)["text"])
    leaked = sum(text in both for text in columns(found.eval)["text"])
    assert any("is named twice" in line for line in found.told)
    assert bool(leaked) == any("rows are also in data.train" in line for line in found.told) and leaked
