"""What is written into files of any kind comes back as it was, with the line of every row."""

import gzip
import hashlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from hybridopt.training.config.run import Data
from hybridopt.training.data import local
from hybridopt.training.data.reading import read
from support.data_files import columns, examples, refusal, write_csv, write_jsonl, write_list, write_parquet, write_tsv

WRITERS = {"jsonl": write_jsonl, "json": write_list, "csv": write_csv, "tsv": write_tsv, "parquet": write_parquet}
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ODD = [
    "2020-01-01",
    "2021-01-01 00:00:00",
    "NA",
    "null",
    "None",
    "nan",
    "1",
    "1.0",
    "true",
    " a ",
    "\u2028x",
    'a "b" c',
]
PAIRS = st.lists(st.tuples(TEXTS | st.sampled_from(ODD), TEXTS | st.sampled_from(ODD)), min_size=1, max_size=6)
CHAT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(pairs=PAIRS)
def test_rows_of_every_kind_of_file_come_back(folder, kind, pairs):
    pairs = [*pairs, ("q", "a")]  # not all are empty
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    found = examples(WRITERS[kind](folder / f"pairs.{kind}", rows))
    assert found.format.name == "prompt_completion"
    assert columns(found.train) == {name: [row[name] for row in rows] for name in ("prompt", "completion")}


@pytest.mark.parametrize("value", ODD)
def test_text_that_looks_like_something_else_stays_text(tmp_path, value):
    """The datasets library itself reads a column of dates in JSON as times."""
    for kind, write in WRITERS.items():
        found = examples(write(tmp_path / f"a.{kind}", [{"text": value}, {"text": value}]))
        assert columns(found.train) == {"text": [value, value]}, kind


def test_calls_of_tools_keep_their_keys_and_add_none(tmp_path):
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": {"x": None}}}],
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "null"}}}}]
    rows = [{"messages": CHAT}, {"messages": [CHAT[0], call], "tools": tools}]
    found = examples(write_jsonl(tmp_path / "a.jsonl", rows))
    assert columns(found.train) == {"messages": [row["messages"] for row in rows], "tools": [None, tools]}


def test_keys_that_parquet_adds_to_messages_are_taken_away(tmp_path):
    rows = [{"messages": [{**CHAT[0], "name": "Ann"}, CHAT[1]]}]
    assert examples(write_parquet(tmp_path / "a.parquet", rows)).train[0] == rows[0]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json"])
def test_gzip_is_read_through(tmp_path, kind):
    plain = WRITERS[kind](tmp_path / f"a.{kind}", [{"text": "one"}, {"text": "two"}])
    packed = tmp_path / f"b.{kind}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    found = examples(packed)
    assert columns(found.train) == {"text": ["one", "two"]}
    assert found.files[0].sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()


@pytest.mark.parametrize("separator", ";\t|,")
def test_the_separator_is_that_of_the_names(tmp_path, separator):
    path = write_csv(tmp_path / "a.csv", [{"prompt": "a, b; c", "completion": "d|\te"}], separator)
    assert examples(path).train[0] == {"prompt": "a, b; c", "completion": "d|\te"}


def test_paragraphs_are_rows_and_lines_where_there_are_none(tmp_path):
    (tmp_path / "a.txt").write_text("\none\ntwo\n\n\nthree\r\n\n")
    (tmp_path / "b.txt").write_text("\nfour\nfive\n\n")
    found = examples(tmp_path / "a.txt", tmp_path / "b.txt")
    assert columns(found.train) == {"text": ["one\ntwo", "three", "four", "five"]}
    assert [found.origin(row) for row in range(4)] == [
        f"{tmp_path}/{where}" for where in ("a.txt:2", "a.txt:6", "b.txt:2", "b.txt:3")
    ]


def test_a_byte_order_mark_and_empty_lines_are_passed_over(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ['\ufeff{"text": "one"}', "", " ", {"text": "two"}])
    found = examples(path)
    assert columns(found.train) == {"text": ["one", "two"]} and found.origin(1) == f"{path}:4"


def test_line_ends_in_quotes_leave_line_numbers_right(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\n\ntwo",x\n\nthree,y\n"four ""4""",x\n')
    found = examples(path)
    assert list(found.train["text"]) == ["one\n\ntwo", "three", 'four "4"']
    assert [found.origin(row) for row in range(3)] == [f"{path}:{line}" for line in (2, 6, 7)]


def test_rows_of_a_list_know_their_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n {"text": "one"},\n\n {"text":\n  "two"}, {"text": "three"}\n]\n')
    found = examples(path)
    assert [found.origin(row) for row in range(3)] == [f"{path}:{line}" for line in (2, 4, 5)]


def test_many_rows_are_kept_in_the_cache_by_what_files_hold(tmp_path, monkeypatch):
    """Also where name, size and time stay the same."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": CHAT}] * 3)
    held = examples(path)
    monkeypatch.setattr(local, "LARGE", 0)
    first, again = examples(path), examples(path)
    assert columns(first.train) == columns(held.train) and first.train.features == held.train.features
    assert first.train.cache_files == again.train.cache_files != [] == held.train.cache_files
    assert first.train._fingerprint == again.train._fingerprint
    before = path.stat()
    path.write_text(path.read_text().replace("2+2", "3+3"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert examples(path).train[0]["messages"][0]["content"] == "3+3?"


def test_files_that_change_while_they_are_read_leave_nothing_in_the_cache(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    monkeypatch.setattr(local, "LARGE", 0)
    version = local.LocalFile.version

    def changing(place):
        """Change the file after its SHA-256 was noted."""
        noted = version(place)
        write_jsonl(path, [{"text": "two"}])
        return noted

    monkeypatch.setattr(local.LocalFile, "version", changing)
    assert refusal(path) == "data.train: the files changed while they were read; start again"
    monkeypatch.setattr(local.LocalFile, "version", version)
    write_jsonl(path, [{"text": "one"}])
    assert columns(examples(path).train) == {"text": ["one"]}


def test_bad_rows_of_many_are_told_as_those_of_few(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": 1}])
    few = refusal(path)
    monkeypatch.setattr(local, "LARGE", 0)
    assert refusal(path) == few and f"{path}:2: text is 1, not text" in few


def test_the_library_shows_no_bars_meanwhile_and_may_afterwards(tmp_path, monkeypatch, capfd):
    import datasets

    datasets.enable_progress_bars()
    monkeypatch.setattr(local, "LARGE", 0)
    examples(write_jsonl(tmp_path / "a.jsonl", [{"text": "none has this"}]))
    assert capfd.readouterr() == ("", "") and not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    examples(write_jsonl(tmp_path / "a.jsonl", [{"text": "nor this"}]))
    assert datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars()


def test_reading_large_files_is_shown(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    for large, seen in ((0, True), (10**9, False)):
        monkeypatch.setattr(local, "LARGE", large)
        shown = io.StringIO()
        read(Data(train=(str(path),)), console=Console(file=shown, force_terminal=True, width=300))
        assert ("reading" in shown.getvalue()) is seen


def test_nothing_is_written_beside_the_files(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    examples(path)
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_are_joined_in_order_and_noted(tmp_path):
    one = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    other = write_csv(tmp_path / "b.csv", [{"text": "three", "id": 7}])
    found = examples(one, other)
    assert columns(found.train) == {"text": ["one", "two", "three"]}
    noted = [(file.path, file.rows, file.sha256) for file in found.files]
    assert noted == [
        (str(path), rows, hashlib.sha256(path.read_bytes()).hexdigest()) for path, rows in ((one, 2), (other, 1))
    ]
    assert f"{other}: not used: id" in found.told


def test_long_cells_are_read(tmp_path):
    """csv itself refuses cells of more than 131,072 characters."""
    text = "long " * 40_000
    assert columns(examples(write_csv(tmp_path / "a.csv", [{"text": text}])).train) == {"text": [text]}
