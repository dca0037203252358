"""The driver of all GPU parts: what hangs, fails or does not fit costs only itself, and nothing that was measured."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import driver, needs, results, views, work
from benchmarks.gpu.__main__ import parse, table
from benchmarks.gpu.driver import LOG, Driver
from benchmarks.gpu.line import Line, View
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.needs import GIB
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.results import FILE, Results
from benchmarks.gpu.views import VIEWS
from benchmarks.shared.command_line import console
from support.paths import ROOT

FAKE = """
import json, pathlib, subprocess, sys, time
how, folder = sys.argv[1], pathlib.Path(sys.argv[-1])
with open(folder / "rows.jsonl", "w") as file:
    for number in range(3):
        print(json.dumps({"row": number, "environment": {"torch": "2"}, "settings": {}}), file=file, flush=True)
if how == "cut":
    open(folder / "rows.jsonl", "a").write('{"row": 3, "ha')
print(f"says {how}", flush=True)
if how == "child":
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    (folder.parent / "child").write_text(str(child.pid))
if how in ("lose", "lose-always") and "--go-on" not in sys.argv or how == "lose-always":
    (folder / "done").touch()
    sys.exit(75)
if how == "lose":
    open(folder / "rows.jsonl", "a").write('{"row": 3}')
(folder / "done").touch()
if how in ("hang", "child"):
    time.sleep(60)
sys.exit(7 if how == "fail" else 0)
"""
H100, H200 = (Machine("cuda", int(total * GIB)) for total in (79.2, 139.8))


@pytest.fixture
def fake(tmp_path):
    """Makes parts that write three rows and then do as they are told."""
    (tmp_path / "fake_part.py").write_text(FAKE)

    def make(name, how="end", **options):
        options = {"limit": 20, "least": 0, "needs": 0} | options
        return Part(name, "", "fake_part", how, how, environment=(("PYTHONPATH", str(tmp_path)),), **options)

    return make


class Clock:
    """Time that passes only once every part at work has done what it does: tests need not be quick, and are."""

    def __init__(self, folder):
        self.folder, self.now = folder, 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        time.sleep(0.02)
        if all((folder / "done").exists() for folder in self.folder.glob("*/") if folder.is_dir()):
            self.now += seconds


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs parts; returns what is known of each of them, from the file."""
    clock = Clock(tmp_path / "work")
    monkeypatch.setattr(driver, "time", clock)
    monkeypatch.setattr(work, "time", clock)

    def go(*parts, machine=H100, seconds=60.0, data=None):
        for part in parts:
            monkeypatch.setitem(VIEWS, part.name, View(("row",), lambda rows, machine: []))
        results = Results(tmp_path / "out" / FILE, machine, {"minutes": 1})
        (tmp_path / "out").mkdir(exist_ok=True)
        Driver(machine, results, seconds, tmp_path / "work", lambda part, begins: None, data).run(parts)
        return {part["part"]: part for part in json.loads(results.path.read_text())["parts"]}

    return go


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(pid):
    """Wait until a process that was killed is no more."""
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end, f"{pid} is still there"
        time.sleep(0.02)


def test_parts_that_fail_or_hang_keep_their_rows_and_stop_no_other(fake, run, tmp_path):
    parts = (fake("a", "fail"), fake("b", "hang", limit=1), fake("c", "cut"), fake("d"))
    found = run(*parts)
    assert [found[name]["ended"] for name in "abcd"] == ["failed: 7", "stopped after 1 s", "ok", "ok"]
    assert all(part["rows"] == [{"row": number} for number in range(3)] for part in found.values())
    assert found["a"]["output"] == "says fail" and "output" not in found["d"]
    log = (tmp_path / "out" / LOG).read_text()
    assert all(f"says {how}" in log for how in ("fail", "hang", "cut", "end"))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [FILE, LOG]


def test_what_a_stopped_part_has_started_is_ended_too(fake, run, tmp_path):
    run(fake("a", "child", limit=1))
    gone(int((tmp_path / "work" / "child").read_text()))


def test_what_goes_beside_the_others_begins_first_and_is_waited_for(fake, run):
    found = run(fake("a"), fake("beside", "hang", limit=9, beside=True), fake("b"))
    assert list(found) == ["beside", "a", "b"] and found["beside"]["ended"] == "stopped after 9 s"
    assert found["beside"]["rows"] and {found["a"]["ended"], found["b"]["ended"]} == {"ok"}


def test_time_is_kept_for_those_that_come_later(fake, run):
    parts = (fake("a", "hang"), fake("b", "hang", limit=2, least=1), fake("c", least=10))
    found = run(*parts, seconds=15)
    assert [found[name]["ended"] for name in "ab"] == ["stopped after 4 s", "stopped after 1 s"]
    assert found["c"]["ended"] == "ok" and found["c"]["limit"] == 10
    found = run(fake("d", least=5), seconds=1)
    assert found["d"]["ended"] == "skipped: no time left (1 s)" and found["d"]["rows"] == []


def test_what_does_not_fit_is_skipped_and_says_so(fake, run):
    parts = (fake("a", needs=138 * GIB), fake("b", needs=60 * GIB), fake("c", text=True))
    found = run(*parts, machine=H100)
    assert found["a"]["ended"] == "skipped: needs 138 GiB, the card has 79" and found["b"]["ended"] == "ok"
    assert found["c"]["ended"].startswith("skipped: there is no real text")
    assert run(*parts, machine=H200, data=Path("."))["c"]["ended"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_rows_survive_whatever_ends_the_driver(fake, tmp_path, number):
    """Rows are published while their part is still at work."""
    fake("a")
    code = f"""
from pathlib import Path
from benchmarks.gpu import driver, line, machine, parts, results, views
views.VIEWS["a"] = line.View((), lambda rows, machine: [])
part = parts.Part("a", "", "fake_part", "child", "child", 60, 0, environment=(("PYTHONPATH", {str(tmp_path)!r}),))
found = results.Results(Path({str(tmp_path)!r}) / "{FILE}", machine.Machine("cuda", 2**40))
driver.Driver(found.machine, found, 60, Path({str(tmp_path / "work")!r}), lambda *_: None).run([part])
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    path, end = tmp_path / FILE, time.monotonic() + 30
    while time.monotonic() < end and not (path.exists() and '"row": 2' in path.read_text()):
        time.sleep(0.05)
    time.sleep(0.2)  # its child has been started
    process.send_signal(number)
    code = process.wait(20)
    (part,) = json.loads(path.read_text())["parts"]
    assert [row["row"] for row in part["rows"]] == [0, 1, 2]
    child = int((tmp_path / "work" / "child").read_text())
    if number == signal.SIGTERM:
        assert code == 143 and part["ended"] == "stopped with everything"
        gone(child)
    elif alive(child):
        os.kill(child, signal.SIGKILL)


def test_a_part_that_has_lost_its_device_is_begun_again_and_goes_on(run, fake):
    found = run(fake("a", "lose"), fake("b"))
    assert found["a"]["ended"] == "ok" and [row["row"] for row in found["a"]["rows"]] == [0, 1, 2, 3]
    assert found["a"]["command"].endswith("--go-on") and found["b"]["ended"] == "ok"


def test_a_part_that_comes_no_further_is_not_begun_again(run, fake):
    found = run(fake("a", "lose-always"), fake("b"))
    assert "lost its device" in found["a"]["ended"] and len(found["a"]["rows"]) == 3 and found["b"]["ended"] == "ok"


def test_a_full_disk_stops_nothing(run, fake, monkeypatch, tmp_path):
    """The file is there as soon as there is room again."""
    calls = []

    def write(path, text):
        calls.append(path)
        if len(calls) < 3:
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr(results, "write", write)
    assert run(fake("a"))["a"]["ended"] == "ok" and len(calls) >= 3


# ---- the parts


def test_the_least_of_all_parts_and_what_they_run():
    inline = [part for part in PARTS if not part.beside]
    assert sum(part.least for part in inline) < 60 * parse([]).minutes <= 9.5 * 60
    assert [part.name for part in inline[:2]] == ["self-test", "policies"]
    assert len({part.name for part in PARTS}) == len(PARTS) and {part.name for part in PARTS} == VIEWS.keys()


def test_which_parts_fit_on_which_card():
    left_out = {card: [p.name for p in PARTS if not card.holds(p.needs)] for card in (H100, H200)}
    assert left_out == {H100: ["memory large", "70B full"], H200: []}


def test_arithmetic_of_memory():
    assert needs.parameters("8b") == 8_030_261_248 and needs.parameters("70b") == 70_553_706_496
    assert needs.parameters("8b", 0.25) == pytest.approx(0.25 * 6_979_321_856 + 1_050_939_392)
    rest = needs.ACTIVATIONS + needs.CONTEXT
    assert needs.training("8b") == 12 * needs.parameters("8b") + rest
    assert needs.training("8b", gradients=False, density=0, state=4) == 20_264_280_064 + rest  # 2 and 4 bytes
    assert 36 * GIB < needs.quantized("70b", 0) < 39 * GIB and needs.stepping("8b-8") < 55 * GIB


def test_arguments_say_how_long_and_on_what():
    part = Part("a", "", "m", "--minutes {minutes} --data {data} --card {total}", "--minutes {minutes}", 90)
    assert part.given(Machine("cuda", 7), 72, Path("d")) == ("--minutes", "1.00", "--data", "d", "--card", "7")
    assert part.given(Machine("cpu"), 5, None) == ("--minutes", "0.02")


# ---- the tables


def lines(name, machine=H100, **rows):
    return views.VIEWS[name].lines({name: [], **rows}, machine)


def reached(found):
    return [line.reached for line in found]


def test_a_table_of_checks_shows_what_is_wrong():
    def row(state):
        return {"case": f"a {state}", "state": state, "said": "so"}

    found = lines("policies", policies=[row("ok"), row("refused"), row("fail") | {"cure": "do it"}, row("ok")])
    assert [line.cells for line in found] == [("all 4", "2 ok, 1 refused, 1 fail"), ("a fail", "so: do it")]
    assert reached(found) == [False, False] and reached(lines("policies", policies=[row("ok")])) == [True]
    lacks = row("refused") | {"said": "nf4 needs bitsandbytes, which is not installed here: pip install bitsandbytes"}
    assert lines("policies", policies=[lacks])[1].cells == ("a refused", lacks["said"])


def test_counts_are_held_to_their_bounds_on_a_gpu():
    rows = [
        {"row": "adamw", "counts": {"launches": 80, "waits": waits}, "most": {"launches": 80, "waits": 1}}
        for waits in (1, 2)
    ]
    rows.append({"row": "mezo", "failed": "Error: x"})
    assert reached(lines("counts", counts=rows)) == [True, False, False]
    fused = [{"row": "muon, fused, full", "counts": {"midway": n}, "most": {"midway": 0}} for n in (0, 1)]
    found = lines("counts", counts=fused)
    assert reached(found) == [True, False] and [line.cells[-1] for line in found] == ["0", "1"]
    assert found[0].aim == "stops in backward ≤ 0"
    assert reached(lines("counts", Machine("cpu"), counts=rows[:2])) == [None, None]


def test_elementwise_updates_are_held_to_the_bandwidth():
    def row(name, seconds):
        more = {"first_seconds": 1, "state_bytes_per_parameter": 8, "peak_temporary_bytes": 0, "ratio": 1.2}
        return {"row": name, "seconds": seconds, "minimal_bytes": 8, "copy_bytes_per_second": 10, **more}

    rows = [row("hybridopt.adamw", 1.0), row("hybridopt.frugal", 1.1), row("torch.adamw-fused", 9.0)]
    assert reached(lines("step", step=rows)) == [True, False, None]
    assert lines("step", step=rows)[0].cells[:4] == ("hybridopt.adamw", "1000.0", "1.20", "80%")


def test_peaks_are_held_to_the_plan_and_fused_release_stands_beside_accumulating():
    def row(method, peak, seconds):
        return {"method": method, "peak_bytes": peak * GIB, "seconds": seconds}

    measured = [row("frugal-fused", 100, 3.0), row("frugal", 100, 2.0), row("adalomo", 100, 1.0)]
    plan = [row("frugal-fused", 104, None), row("frugal", 94, None)]
    rows = {"memory 8B": measured + [{"method": "x", "failed": "OutOfMemoryError"}], "plan 8B": plan}
    found = lines("memory 8B", **rows)
    assert reached(found) == [True, False, None, False] and found[0].cells[-3:] == ("+4.0%", "3.00", "1.50")
    assert reached(lines("memory 8B", Machine("cpu"), **rows)) == [None, None, None, False]


def test_70b_is_held_to_the_plan_of_the_same_length_and_to_40_gib():
    def row(scenario, kind, sequence, peak, speed=100, **more):
        found = {"sequence": sequence, "peak_bytes": peak * GIB, "tokens_per_second": speed, **more}
        return {"scenario": scenario, kind: found}

    plan = [row("frugal", "predicted", 2048, 39.4), row("longest", "predicted", 24_000, 76)]
    rows = [row("frugal", "measured", 2048, 39, 150), row("longest", "measured", 22_800, 71, failed="stopped")]
    rows += [row("qlora", "measured", 2048, 45)]
    found = lines("70B", **{"70B": rows, "plan 70B": plan})
    assert [line.cells[0] for line in found] == ["frugal", "frugal, 2,048 tokens", "longest", "longest", "qlora"]
    assert reached(found) == [True, True, None, False, None] and found[0].cells[-2:] == ("150", "1.50")
    late = lines("70B", **{"70B": [row("frugal", "measured", 2048, 40.5)]})
    assert reached(late) == [None, False]


def test_rows_that_are_only_half_there_cost_no_other_table(tmp_path):
    results = Results(tmp_path / FILE, H100)
    results._parts = {"step": {"rows": [{"row": "a"}]}, "noise": {"rows": []}}
    (line,) = results.lines("step")
    assert "KeyError" in line.aim and results.lines("noise") == [] and results.verdicts() == []


def test_every_table_can_be_printed(capsys):
    for view in VIEWS.values():
        console().print(table(view.columns, [Line(("a",), "x ≤ 1", True), Line(("b", "c"), "", False)]))
    out = capsys.readouterr().out
    assert out.count("reached") == out.count("missed") == len(VIEWS)


def placement_row(how, tokens, speed, **more):
    return {"how": how, "tokens": tokens, "peak_bytes": 10 * GIB, "tokens_per_second": speed} | more


def test_layers_on_the_host_are_held_against_those_on_the_device_and_the_plan():
    held = {"stalled_share": 0.01, "weight_bytes": 100, "pinned_bytes": 104}
    found = [
        placement_row("on the device", 2048, 100.0),
        placement_row("on the device", 4096, 100.0),
        {"how": "gradients", "tokens": 2048, "adapters": 8, "differ": 0, "differ_resident": 0},
        placement_row("on the host", 2048, 81.0, **held),
        placement_row("on the host", 4096, 94.0, **held | {"stalled_share": 0.06, "pinned_bytes": 110}),
    ]
    plans = [{"how": "on the host", "tokens": n, "peak_bytes": size * GIB} for n, size in ((2048, 10.2), (4096, 10.5))]
    told = lines("placement", placement=found, **{"plan placement": plans})
    assert reached(told) == [None, None, True, True, True, True, True, False, False, False, False]
    assert told[3].cells == ("on the host", "2048", "10.00", "10.20", "+2.0%", "81", "0.81", "1.0%")
    told = lines("placement", machine=Machine("cpu"), placement=found)
    assert [line.reached for line in told if line.reached is not None] == [True]  # gradients alone mean something


def test_gradients_that_differ_from_call_to_call_say_nothing_of_placement():
    row = {"how": "gradients", "tokens": 2048, "adapters": 8, "differ": 3, "differ_resident": 2}
    assert reached(lines("placement", placement=[row])) == [None]
    assert reached(lines("placement", placement=[row | {"differ_resident": 0}])) == [False]
