"""Records survive being killed, several writers, and broken lines; they are found by what they are."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from benchmarks.shared.records import Records

SETTINGS = {"steps": 5, "options": {"a": [1]}}


def record(name, value=0, **more):
    return {"name": name, "value": value, "settings": SETTINGS} | more


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "folder" / "table.jsonl", ("name", "steps"))


def test_a_line_a_record_in_the_order_in_which_they_came(records):
    assert records.all() == []
    for name in "bca":
        records.put(record(name, {"ρ": 0.1, "none": None}))
    lines = records.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records.all()
    assert [one["name"] for one in records.all()] == ["b", "c", "a"] and "ρ" in lines[0]


def test_a_record_takes_the_place_of_the_one_it_replaces(records):
    for name in "abc":
        records.put(record(name))
    before = records.path.read_text().splitlines()
    records.put(record("b", 7))
    assert len(records.path.read_text().splitlines()) == 3
    records.put(record("b", 8, settings=SETTINGS | {"steps": 6}))  # another one
    after = records.path.read_text().splitlines()
    assert [before[0], before[2]] == [after[0], after[2]] and len(after) == 4
    assert records.find(name="b", steps=5)["value"] == 7 and records.find(name="b", steps=6)["value"] == 8
    assert records.find(name="d", steps=5) is None


def test_other_settings_are_refused(records):
    records.put(record("a"))
    assert records.find({"options": {"a": [1]}}, name="a", steps=5)["value"] == 0
    wanted = r"table\.jsonl: .*'a'.* was made with \{'options': .*\}, not \{'options': \{\}\}; choose another folder"
    with pytest.raises(ValueError, match=wanted):
        records.find({"options": {}}, name="a", steps=5)


def test_a_broken_line_is_named(records):
    records.put(record("a"))
    with records.path.open("a") as file:
        file.write('{"name": "b"')
    with pytest.raises(ValueError, match=r"table\.jsonl, line 2 is no record .* mend or remove the line"):
        records.all()


def test_without_records_a_table_says_so(records):
    with pytest.raises(SystemExit, match=r"no results in .*table\.jsonl yet"):
        records.some()
    records.put(record("a"))
    assert len(records.some()) == 1
    records.clear()
    records.clear()
    assert records.all() == []


def put_many(records, writer, count):
    for number in range(count):
        records.put(record(f"{writer}-{number}", "x" * 2000))


def spawn(*arguments):
    process = multiprocessing.get_context("fork").Process(target=put_many, args=arguments)
    process.start()
    return process


def test_writers_at_the_same_time_lose_nothing(records):
    writers = [spawn(records, writer, 20) for writer in range(4)]
    for writer in writers:
        writer.join()
    assert {one["name"] for one in records.all()} == {f"{w}-{n}" for w in range(4) for n in range(20)}


def test_who_is_killed_while_writing_loses_no_record_that_was_there(records):
    records.put(record("first"))
    for number in range(5):
        writer, before = spawn(records, number, 10_000), len(records.all())
        while len(records.all()) < before + 5:
            time.sleep(0.001)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        there = records.all()  # every line is whole
        assert there[0] == record("first")
        mine = [one["name"] for one in there if one["name"].startswith(f"{number}-")]
        assert len(mine) >= 5 and mine == [f"{number}-{n}" for n in range(len(mine))]
