"""The line of a run on terminals of any width, and in pipes."""

import io
import math

import pytest
from rich.console import Console

from hybridopt.training.watching.fields import bytes_line, number, thousands
from hybridopt.training.watching.screen import Screen
from hybridopt.training.watching.sparkline import ASCII, BARS, Curve, sparkline

GIB = 2**30
RECORD = {
    "step": 120,
    "epoch": 0.243,
    "seconds": 480.0,
    "loss": 2.1342,
    "eval_loss": 2.2011,
    "lr": 1e-4,
    "grad_norm": 1.234,
    "tokens_per_second": 12345.6,
    "memory_bytes": int(14.2 * GIB),
    "peak_bytes": int(15.1 * GIB),
}


def screen(width=140, terminal=True, encoding="utf-8", **more):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"})
    return Screen(console, 1000, int(22.7 * GIB), **more)


def text(shown):
    file = shown.console.file
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)


def line(width, **more):
    """What the live line says after two records."""
    shown = screen(width, **more)
    shown.show(RECORD | {"step": 20, "seconds": 80.0, "loss": 4.0})
    shown.show(RECORD)
    shown.close()
    with shown.console.capture() as found:
        shown.console.print(shown)
    return found.get().rstrip("\n")


def test_everything_is_on_a_wide_line():
    assert line(160) == (
        "step 120/1000  epoch 0.24  loss 2.134  █▁  eval 2.201  lr 1.0e-04  norm 1.234  12.3k tok/s  "
        "14.2/15.1/22.7 GiB  ETA 0:58:40"
    )


def test_narrow_lines_keep_what_matters_most():
    assert line(80) == "step 120/1000  loss 2.134  █▁  12.3k tok/s  14.2/15.1/22.7 GiB  ETA 0:58:40"
    assert line(40) == "step 120/1000  loss 2.134  ETA 0:58:40"
    assert line(5).startswith("step ") and "\n" not in line(5)


@pytest.mark.parametrize("width", range(14, 150))
def test_the_line_fits(width):
    found = line(width)
    assert len(found) <= width and "\n" not in found


def test_what_is_not_known_is_left_out():
    shown = screen()
    shown.show({"step": 1})
    shown.close()
    assert shown._line(None).plain == "step 1/1000"


def test_what_is_no_number_is_shown_as_such_and_in_red():
    shown = screen()
    for step, loss in enumerate([3.0, math.nan, math.inf], 1):
        shown.show({"step": step, "loss": loss, "grad_norm": None})
    shown.close()
    assert "loss inf" in shown._line(None).plain and "norm nan" in shown._line(None).plain
    assert "█" not in shown._line(None).plain and "▁!!" in shown._line(None).plain
    red = [shown._line(None).plain[s.start : s.end] for s in shown._line(None).spans if "red" in s.style]
    assert red == ["loss inf", "norm nan"]


def test_a_peak_above_the_device_is_red():
    for limit, reds in ((16 * GIB, []), (15 * GIB, ["14.2/15.1/22.7 GiB"])):
        shown = screen(limit_bytes=limit)
        shown.show(RECORD)
        shown.close()
        found = shown._line(None)
        assert [found.plain[s.start : s.end] for s in found.spans if "red" in s.style] == reds


def test_a_terminal_that_shows_no_bars_gets_ascii():
    shown = screen(encoding="ascii")
    shown.note("naïve — 20 µs")
    for step in range(1, 5):
        shown.show({"step": step, "loss": 5.0 - step})
    shown.close()
    assert "#+,_" in text(shown) and "na?ve ? 20 ?s" in text(shown)


def test_a_terminal_is_told_what_happens_between_records():
    shown = screen()
    shown.show(RECORD)
    shown.step(125)
    assert shown._line(None).plain.startswith("step 125/1000")
    shown.evaluating(3, 12)
    assert shown._line(None).plain.endswith("evaluating 3/12")
    assert "evaluating 3/12" in shown._line(40).plain
    shown.show({"step": 125, "eval_loss": 1.0})
    shown.close()
    assert "evaluating" not in shown._line(None).plain and "eval 1.000" in shown._line(None).plain


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def printed(steps, apart, evals=()):
    """The steps whose lines are printed, if a record comes every `apart` seconds."""
    clock = Clock()
    shown = screen(terminal=False, clock=clock)
    for step in range(1, steps + 1):
        shown.show({"step": step, "loss": 1.0} | ({"eval_loss": 2.0} if step in evals else {}))
        clock.seconds += apart
    shown.close()
    return [int(each.split("/")[0].removeprefix("step ")) for each in text(shown).splitlines()]


def test_a_pipe_is_not_flooded():
    assert printed(5000, 1 / 1024) == [1, 1025, 2049, 3073, 4097, 5000]


def test_evaluations_are_always_printed_and_slow_steps_too():
    assert printed(6, 0.01, evals=(3,)) == [1, 3, 6]
    assert printed(4, 2.0) == [1, 2, 3, 4]
    assert printed(1, 0.1) == [1]
    assert printed(0, 0.1) == []


def test_plain_lines_are_whole_and_have_no_escape_codes():
    shown = screen(40, terminal=False)
    shown.show(RECORD | {"eval_loss": 2.5})
    shown.note("[bold]adapters[/bold] of " + "x" * 60)
    shown.close()
    first, second = text(shown).splitlines()
    assert first.endswith("12.3k tok/s  14.2/15.1/22.7 GiB") and "\x1b" not in text(shown)
    assert second == "[bold]adapters[/bold] of " + "x" * 60


@pytest.mark.parametrize(
    ("value", "written"),
    [(2.1342, "2.134"), (0.02131, "0.0213"), (123.44, "123.4"), (4.1e-5, "4.1e-05"), (1e9, "1.0e+09"), (0, "0")],
)
def test_numbers_are_short(value, written):
    assert number(value) == written


def test_counts_and_sizes_are_short():
    assert [thousands(x) for x in (950, 999.7, 12345, 4.56e6, 2e9)] == ["950", "1k", "12.3k", "4.56M", "2G"]
    assert bytes_line([3 * 2**20, 2**30]) == "0.0/1.0 GiB" and bytes_line([512]) == "0.5 KiB"


def test_a_sparkline_falls_with_the_loss():
    assert sparkline([8.0, 6.0, 4.0, 2.0, 0.0], 5, 8.0) == "█▇▅▃▁"
    assert len(sparkline(list(range(1000)), 40, 1000.0)) == 40
    assert sparkline([], 5, 1.0) == ""
    assert sparkline([2.0, 1.0, math.nan], 3, 2.0, 1.0, ASCII) == "#_!"


def test_a_curve_of_any_length_keeps_its_shape():
    curve = Curve()
    for value in range(100_000):
        curve.add(float(value))
    assert len(curve._means) < Curve.MOST
    assert curve.drawn(8) == BARS
    level = Curve()
    level.add(1.0)
    assert level.drawn(8) == ""
    level.add(1.0)
    assert level.drawn(8) == "▁▁"
