"""The step benchmark of adapters and large models, rows that are not measured, and the tables on pages."""

import re
import time

import pytest
import torch

from benchmarks.shared.places import RESULTS
from benchmarks.step import hybrid, measure, memory, pages, peers, rows
from benchmarks.step.__main__ import main
from benchmarks.step.ahead import Extension
from benchmarks.step.measure import Bench
from benchmarks.step.sets import SETS, Adapters
from hybridopt.model.roles import guess


def one_run(folder, *more):
    main(
        [
            "--set",
            "tiny",
            "--pairs",
            "1",
            "--threads",
            "1",
            "--compile",
            "false",
            "--dtypes",
            "fp32",
            *more,
            "--out",
            str(folder),
        ]
    )


def test_adapters_are_300_matrices_of_4096_to_65536_elements():
    shapes = SETS["adapters"].shapes
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    assert len(sizes) == 300 and min(sizes) == 4096 and max(sizes) == 65536
    assert {guess(name, torch.empty(shape, device="meta")) for name, shape in shapes.items()} == {"adapter"}
    assert len(SETS["python"].shapes) == 75 and 490e6 < memory.numel_of(SETS["500m"]) < 510e6


def test_frugal_splits_adapters():
    small = Bench(Adapters(layers=1, rank=4, hidden=32, inner=64, keys=16), torch.float32, "cpu", pairs=1)
    known = hybrid.rows(torch.float32, False)
    kept = {n: small.measure(known[f"hybridopt.{n}"])["state_bytes_per_parameter"] for n in ("frugal-0", "frugal")}
    assert kept["frugal-0"] == 0 and 1.9 < kept["frugal"] < 2.6


def test_quick_steps_get_more_pairs():
    assert [measure.pairs_for(once, 15) for once in (0.001, 0.0049, 0.006)] == [60, 60, 15]


def test_a_package_that_is_missing_or_fails_has_a_row_with_the_reason(tmp_path, monkeypatch, capsys):
    def fails(params, llama):
        raise ImportError("its library was built for another torch")

    monkeypatch.setitem(peers.PEERS, "deepspeed.cpu-adam", peers.Peer("no_such_package", fails))
    monkeypatch.setitem(peers.PEERS, "optimi.adamw", peers.Peer("torch", fails))
    one_run(tmp_path, "--only", "deepspeed*|optimi*")
    reasons = [
        "no_such_package is not installed: pip install no-such-package",
        "ImportError: its library was built for another torch",
    ]
    assert [record["failed"] for record in rows.records_at(tmp_path).all()] == reasons
    shown, printed = (tmp_path / "step.md").read_text(), capsys.readouterr().out
    assert all(reason in shown for reason in reasons) and "not measured, no_such_package" in printed


def test_a_row_that_hangs_ends_and_the_next_is_measured(tmp_path, monkeypatch):
    hangs = peers.Peer("torch", lambda params, llama: time.sleep(30))
    monkeypatch.setitem(peers.PEERS, "deepspeed.cpu-adam", hangs)
    one_run(tmp_path, "--only", "deepspeed.cpu-adam", "--row-seconds", "0.2", "--measure")
    one_run(tmp_path, "--only", "torch.sgd-fused", "--measure")
    first, second = rows.records_at(tmp_path).all()
    assert first["failed"] == "TimeoutError: took more than 0.2 s" and second["ratio"] > 0


COMPILES = """
import os, sys, time
from pathlib import Path
folder = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "theirs"
(folder / "lock").touch()
{then}
(folder / "lock").unlink()
(folder / "made").touch()
"""


@pytest.mark.parametrize(
    ("then", "held", "reason"),
    [
        ("", False, None),
        ("time.sleep(30)", False, "compiling theirs took more than 0.5 s"),
        ("time.sleep(30)", True, "theirs, or waiting for .*lock, which was there before: delete it"),
        ("raise OSError('no ninja')", False, "theirs was not compiled: OSError: no ninja"),
    ],
)
def test_a_package_compiles_before_its_row_begins(then, held, reason, tmp_path, monkeypatch):
    """For longer than a row may take; what is stopped leaves no lock for the next one, but that of others."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "theirs" / "lock"
    lock.parent.mkdir()
    if held:
        lock.touch()
    extension = Extension("theirs", COMPILES.format(then=then))
    peer = peers.Peer("torch", lambda params, llama: time.sleep(30), extension)
    monkeypatch.setitem(peers.PEERS, "deepspeed.cpu-adam", peer)
    seconds = ["--row-seconds", "0.1", "--compile-seconds", "0.5" if "sleep" in then else "60"]
    one_run(tmp_path, "--only", "deepspeed.cpu-adam", "--measure", *seconds)
    (record,) = rows.records_at(tmp_path).all()
    assert re.search(reason or "TimeoutError: took more than 0.1 s", record["failed"])
    assert (lock.parent / "made").exists() == (reason is None)
    assert lock.exists() == (held or "raise" in then)


def test_too_little_memory_is_a_line_before_anything_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "left", lambda root: 10**9)
    monkeypatch.setattr(rows, "Bench", None)  # nothing is made
    one_run(tmp_path, "--only", "hybridopt.signsgd", "--set", "500m", "--measure")
    (record,) = rows.records_at(tmp_path).all()
    assert record["failed"] == "needs 8.5 GB of memory, 1.0 GB are free" and record["tensors"] == 192
    assert "500m fp32 hybridopt.signsgd: not measured, needs 8.5 GB" in " ".join(capsys.readouterr().out.split())


def test_a_row_that_does_not_fit_beside_what_all_share_is_left_out(tmp_path, monkeypatch):
    free = iter([10**9, 10**5])
    monkeypatch.setattr(memory, "left", lambda root: next(free))
    one_run(tmp_path, "--only", "hybridopt.signsgd", "--measure")
    assert "346.0 kB" in rows.records_at(tmp_path).all()[0]["failed"]
    assert memory.lacking(10**18, "cuda") is None


def test_a_pattern_that_fits_no_row_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        one_run(tmp_path, "--only", "optimi|hybridopt.signsgd")
    assert "no row fits optimi;" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert rows.fitting_none("*|hybridopt.adamw+nearest|optimi*") == []


def test_rows_that_are_there_or_late_are_named(tmp_path, capsys):
    one_run(tmp_path, "--only", "torch.sgd-fused", "--measure")
    one_run(tmp_path, "--only", "torch.sgd-fused|hybridopt.signsgd", "--minutes", "0", "--measure")
    printed = " ".join(capsys.readouterr().out.split())
    assert "there already: torch.sgd-fused" in printed
    assert "not begun, the time is up: hybridopt.signsgd" in printed


def test_pages_show_the_records():
    records = rows.records_at(RESULTS).all()
    for block in pages.BLOCKS:
        text = block.page.read_text(encoding="utf-8")
        assert block.into(text, records) == text


def test_a_page_has_hybridopt_and_others_side_by_side(tmp_path):
    one_run(tmp_path, "--only", "hybridopt.signsgd")
    (record,) = rows.records_at(tmp_path).all()
    record["settings"]["set"] = "60m"
    records = [record, record | {"row": "optimi.adamw", "failed": "optimi is not installed"}]
    shown = pages.peers_table(records).splitlines()[2:]
    assert len(shown) == 1 and shown[0].startswith("| signSGD |")
    adamw = [record | {"row": "hybridopt.adamw"}, *records]
    assert "optimi.adamw not measured" in pages.peers_table(adamw).splitlines()[2]
    line = pages.goals_table(records)
    assert "| signSGD |" in line and "| 0.75 |" in line and "| 0.55 |" in line
