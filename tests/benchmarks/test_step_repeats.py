"""Rows of the step benchmark that are measured in several processes."""

from pathlib import Path
from subprocess import CalledProcessError

import pytest

from benchmarks.step import __main__ as command
from benchmarks.step.repeats import middle, spread
from benchmarks.step.rows import records_at

SETTINGS = {"device": "cpu", "set": "tiny", "dtype": "fp32", "threads": 2, "pairs": 15, "compile": "auto"}


def row(name, ratio=None):
    found = {"row": name, "index": 0, "settings": SETTINGS}
    return found | ({"failed": "no compiler"} if ratio is None else {"ratio": ratio, "seconds": 10 * ratio})


@pytest.mark.parametrize(
    ("ratios", "kept", "said"),
    [
        ([1.1, 0.8, 0.9], 0.9, "0.80–1.10 (3)"),
        ([1.1, 0.8, 0.9, 0.7], 0.8, "0.70–1.10 (4)"),
        ([None, 0.8, None], 0.8, ""),
        ([0.8], 0.8, ""),
    ],
)
def test_the_record_of_the_median_ratio_is_kept(ratios, kept, said):
    [found] = middle([[row("a", ratio)] for ratio in ratios])
    assert found["ratio"] == kept and found["seconds"] == 10 * kept
    assert spread(found) == said


def test_a_row_that_always_fails_says_why_and_others_are_kept():
    found = middle([[row("a"), row("b", 1.0)], [row("a"), row("b", 2.0)], [row("b", 3.0)]])
    assert [(one["row"], one.get("ratio"), one.get("failed")) for one in found] == [
        ("a", None, "no compiler"),
        ("b", 2.0, None),
    ]
    assert spread(found[0]) == ""


def run(folder, *others):
    """Run the command in processes that are replaced by `run_step`."""
    command.main(["--set", "tiny", "--dtypes", "fp32", "--processes", "3", "--out", str(folder), *others])


def test_what_was_measured_before_a_process_fails_is_kept(tmp_path, monkeypatch):
    ratios = iter([3.0, 1.0])

    def run_step(own, options):
        records_at(Path(own[-1])).put(row("hybridopt.adamw", ratio := next(ratios)))
        if ratio == 1.0:
            raise CalledProcessError(1, own)

    monkeypatch.setattr(command, "run_step", run_step)
    with pytest.raises(CalledProcessError):
        run(tmp_path)
    assert records_at(tmp_path).all()[0]["processes"] == [1.0, 3.0]


def test_records_of_other_settings_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run_step", lambda *_: pytest.fail("measured"))
    records_at(tmp_path).put(row("hybridopt.adamw", 9.0))
    with pytest.raises(ValueError, match="'pairs': 15.*'pairs': 3.*another folder"):
        run(tmp_path, "--pairs", "3")


def test_every_process_measures_anew_and_what_was_there_is_replaced(tmp_path, monkeypatch):
    ratios, asked = iter([3.0, 1.0, 2.0]), []

    def run_step(own, options):
        asked.append(own)
        folder = Path(own[own.index("--out", own.index("--measure")) + 1])
        assert folder != tmp_path and not records_at(folder).all()
        records_at(folder).put(row("hybridopt.adamw", next(ratios)))

    monkeypatch.setattr(command, "run_step", run_step)
    monkeypatch.setattr(command, "show", lambda *_: None)
    records_at(tmp_path).put(row("hybridopt.adamw", 9.0))
    run(tmp_path, "--minutes", "6")
    [found] = records_at(tmp_path).all()
    assert found["ratio"] == 2.0 and found["processes"] == [1.0, 2.0, 3.0]
    minutes = [float(own[own.index("--minutes", own.index("--measure")) + 1]) for own in asked]
    assert len(minutes) == 3 and max(minutes) <= 2


@pytest.mark.parametrize("given", [["--processes", "0"], ["--processes", "2", "--measure"]])
def test_numbers_of_processes_that_mean_nothing_are_refused(given, capsys):
    with pytest.raises(SystemExit):
        command.main(given)
    assert "--processes: give 1 or more" in capsys.readouterr().err
