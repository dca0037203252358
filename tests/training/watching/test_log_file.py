"""log.jsonl: whole lines only, whatever happens to the run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hybridopt import HybridOptError
from hybridopt.training.watching.log import LogFile, read_log


def test_records_come_back(tmp_path):
    log = LogFile(tmp_path / "new" / "log.jsonl")
    log.append({"step": 1, "loss": 2.5, "note": "ü\n", "done": True})
    log.append({"step": np.int64(2), "loss": np.float32(0.5)})
    assert read_log(log.path) == [{"step": 1, "loss": 2.5, "note": "ü\n", "done": True}, {"step": 2, "loss": 0.5}]
    assert log.path.read_bytes().count(b"\n") == 2


def test_what_is_no_number_is_null_and_named(tmp_path):
    log = LogFile(tmp_path / "log.jsonl")
    log.append({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 1.0})
    text = log.path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "lr": 1.0,
        "nonfinite": ["loss", "grad_norm"],
    }


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, object(), b"x"])
def test_what_is_no_text_and_no_number_is_refused_and_nothing_is_written(tmp_path, value):
    log = LogFile(tmp_path / "log.jsonl")
    with pytest.raises(HybridOptError, match="loss=.* is neither a text nor a number"):
        log.append({"step": 1, "loss": value})
    assert log.path.read_bytes() == b""


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}'])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + torn)
    assert [r["step"] for r in read_log(path)] == [1, 2]
    LogFile(path).append({"step": 4})
    assert [r["step"] for r in read_log(path)] == [1, 2, 4]


def test_a_bad_line_in_the_middle_is_told_by_its_number(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 2}\n')
    with pytest.raises(HybridOptError, match=r"log\.jsonl:2 is not valid JSON"):
        read_log(path)


def test_a_resumed_run_makes_later_records_once_more(tmp_path):
    log = LogFile(tmp_path / "log.jsonl")
    for step in (2, 4, 6, 8):
        log.append({"step": step, "loss": float("nan") if step == 2 else 1.0})
        log.append({"step": step, "eval_loss": 2.0})
    assert log.truncate_after(4) == {"step": 4, "eval_loss": 2.0}
    log.append({"step": 6, "loss": 0.5})
    assert [r["step"] for r in read_log(log.path)] == [2, 2, 4, 4, 6]
    assert read_log(log.path)[0]["nonfinite"] == ["loss"]
    assert log.truncate_after(0) == {}
    assert read_log(log.path) == [] and sorted(os.listdir(tmp_path)) == ["log.jsonl"]


def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path, monkeypatch):
    log = LogFile(tmp_path / "log.jsonl")
    log.append({"step": 1})
    write = os.write

    def full(file, data):
        if len(data) < 8:
            raise OSError(28, "No space left on device")
        return write(file, data[:8])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HybridOptError, match="No space left"):
        log.append({"step": 2, "loss": 1.0})
    assert log.path.read_text() == '{"step": 1}\n'


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(HybridOptError, match="cannot be read or written"):
        LogFile(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from hybridopt.training.watching.log import LogFile
log = LogFile(Path(sys.argv[1]))
for step in range(5):
    log.append({"step": step})
os.write(log._file, b'{"step": 5, ')
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_has_written(tmp_path):
    path = tmp_path / "log.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -9
    LogFile(path).append({"step": 5})
    assert [r["step"] for r in read_log(path)] == [0, 1, 2, 3, 4, 5]
