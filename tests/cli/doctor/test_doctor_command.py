"""`hybridopt doctor` runs every check, whatever becomes of the others, and says in one line what to do."""

import json
import warnings

import pytest
import torch
from typer.testing import CliRunner

from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.cli.doctor import compare, examine
from hybridopt.cli.doctor.compare import EXACT, Bound, compared
from hybridopt.cli.doctor.examine import Check, outcome
from hybridopt.cli.doctor.finding import Finding
from hybridopt.cli.doctor.machine import CPU, Machine
from hybridopt.cli.main import app
from hybridopt.core.host import host

SOUND = Finding("sound", "ok", "fine [red]", numbers={"speed": 2.0, "error": float("inf")})
GPU = Machine(torch.device("cuda", 0), None)


def check(work, name="odd"):
    return Check(name, "device", 0, work)


def raising(error):
    def work(machine):
        yield SOUND
        raise error

    return work


def warning(machine):
    warnings.warn("updates are slower. Install a compiler", HybridOptWarning, stacklevel=1)
    warnings.warn("of somebody else", UserWarning, stacklevel=1)
    yield SOUND


def run(*arguments):
    result = CliRunner().invoke(app, ["doctor", *arguments])
    if isinstance(result.exception, HybridOptError):
        raise result.exception
    return result


@pytest.fixture
def some(monkeypatch):
    """Let these be all the checks there are."""

    def put(*checks):
        monkeypatch.setattr(examine, "checks", lambda: checks)

    return put


def test_speeds_are_kept_for_plans(some, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    some(check(lambda machine: [SOUND, Finding("bus", "ok", "", speeds={"bus": 2e10})], "bus"))
    assert run("--folder", str(tmp_path)).exit_code == 0
    assert host().bus.bytes == 2e10 and host().bus.known.startswith("measured ") and host().disk.known == "assumed"


def test_what_is_sound_is_shown_and_leaves_with_0(some, tmp_path):
    some(check(lambda machine: [SOUND], "sound"))
    result = run("--folder", str(tmp_path))
    assert result.exit_code == 0 and "fine [red]" in result.output and "Nothing is wrong; 1 ok" in result.output
    found = json.loads(run("--json", "--folder", str(tmp_path)).stdout)
    assert found["ok"] and found["device"] == "cpu"
    assert found["findings"][0]["numbers"] == {"speed": 2.0} and found["findings"][0]["kind"] == "device"


def test_what_raises_is_a_line_and_the_others_are_run(some, tmp_path):
    some(check(raising(ValueError("first line\nsecond"))), check(lambda machine: [SOUND]))
    result = run("--json", "--folder", str(tmp_path))
    odd, sound = json.loads(result.stdout)["findings"]
    assert result.exit_code == 1 and sound["state"] == "ok"
    assert odd["state"] == "fail" and odd["value"] == "ValueError: first line" and "report this line" in odd["cure"]
    assert "1 failed" in run("--folder", str(tmp_path)).output


@pytest.mark.parametrize(
    ("error", "machine", "cure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), GPU, "nvidia-smi"),
        (MemoryError(), Machine(CPU, None), "end what else uses memory"),
        (ModuleNotFoundError("No module named 'a.b'", name="a.b"), GPU, "pip install a"),
        (AssertionError("x" * 999), GPU, "hybridopt doctor --json"),
    ],
)
def test_an_error_says_what_to_do(error, machine, cure, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    (found,) = outcome(check(raising(error)), machine)
    assert found.state == "fail" and cure in found.cure and len(found.value) <= examine.LONGEST
    assert bool(emptied) == isinstance(error, torch.OutOfMemoryError)


def test_what_hybridopt_warns_of_is_told_once(some, tmp_path):
    some(check(warning), check(warning))
    result = run("--json", "--folder", str(tmp_path))
    lines = json.loads(result.stdout)["findings"]
    assert result.exit_code == 0 and [line["state"] for line in lines] == ["ok", "warn", "ok"]
    assert (lines[1]["value"], lines[1]["cure"]) == ("updates are slower", "install a compiler")


def test_an_error_that_was_told_is_not_told_again(some, tmp_path):
    why = "(CppError: no g++ (None, 'x'))"
    lines = [
        Finding(str(i), "warn", f"{text} {why}.", f"cure {i}") for i, text in enumerate(("none", "slow", "other"))
    ]
    lines[2] = Finding("2", "warn", "slow (TritonError: none)", "cure 2")
    some(*(check(lambda machine, one=one: [one]) for one in lines))
    found = json.loads(run("--json", "--folder", str(tmp_path)).stdout)["findings"]
    assert [line["name"] for line in found] == ["0", "2"]


@pytest.mark.parametrize("device", ["cuda:77", "tpu", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(HybridOptError, match=f"device='{device}' cannot be used here .*give cpu, or cuda"):
        run("--device", device)


def test_a_folder_that_takes_no_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("missing", "file"):
        with pytest.raises(HybridOptError, match=f"--folder .*{name}: no file can be written there .*another folder"):
            run("--folder", str(tmp_path / name))


def test_what_is_wrong_has_a_cure():
    with pytest.raises(AssertionError, match="say what to do"):
        Finding("odd", "warn", "slow")


@pytest.mark.parametrize(
    ("machine", "ways"),
    [
        (GPU, ["cuda, eager", "cuda, compiled"]),
        (Machine(GPU.device, None, compile=False), ["cuda, eager"]),
        (Machine(CPU, None), ["cpu, compiled"]),
        (Machine(CPU, None, compile=False), []),
    ],
)
def test_ways_in_which_results_are_worked_out(machine, ways):
    assert list(machine.ways) == ways


def state(one, other, bound=EXACT, **more):
    return compared("x", {"w": one}, {"way": {"w": other}}, bound, **more).state


def test_results_are_held_to_the_bit_or_to_a_bound():
    x = torch.tensor([0.0, 1.0, -2.0, float("nan")])
    assert state(x, x.clone()) == "ok" and state(x[:3], x[:3] + 0) == "ok"
    assert state(x[:1], -x[:1]) == "fail", "the sign of a zero is a bit"
    assert state(x[:3], x[:3] + 1e-6) == "fail"
    assert state(x[:3], x[:3] + 1e-6, Bound(1e-5)) == "ok" and state(x[:3], x[:3] + 1e-4, Bound(1e-5)) == "fail"
    assert state(x[:3], torch.tensor([0.0, 1.0, -1.9]), Bound(0.1, 0.3)) == "fail"
    assert state(x[:3], torch.tensor([0.0, 1.0, -1.9]), Bound(0.1, 0.4)) == "ok"
    assert state(x, torch.tensor([0.0, 1.0, float("nan"), float("nan")]), Bound(1.0)) == "fail"
    assert state(x, x, known=compare.checksum(x)) == "ok" and state(x, x, known=1) == "fail"
    assert compared("x", {"w": x}, {}).state == "skipped"
