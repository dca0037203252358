"""Every check of the doctor passes on a sound machine, and fails, with a cure, on one that is not."""

import re
import sys
from pathlib import Path

import pytest
import torch

from hybridopt.cli.doctor import compiling
from hybridopt.cli.doctor.checks import (
    adalomo,
    bitsandbytes,
    bus,
    compiler,
    copying,
    device,
    disk,
    frugal,
    mezo,
    nf4_lora,
    philox,
    printed_kernel,
    threads,
    versions,
)
from hybridopt.cli.doctor.compiling import Trial
from hybridopt.cli.doctor.examine import KINDS, checks, outcome
from hybridopt.cli.doctor.machine import CPU, Machine
from hybridopt.cli.doctor.training import parameters
from hybridopt.core import host_memory
from hybridopt.core.numerics import direction_kernels
from hybridopt.core.sizes import GIB
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.cpp import builder
from support.current_device import CurrentDevice
from support.paths import ROOT

CHECKS = {check.name: check for check in checks()}
TEST = [check for check in checks() if check.kind == "self-test"]
H100 = device.Card("NVIDIA H100", (9, 0), ("sm_80", "sm_90", "compute_90"), 80 * GIB, 79 * GIB, 0)
AVAILABLE = builder.available
SMALL = {"layers.0.mlp.weight": (64, 1024), "layers.1.mlp.weight": (8, 8)}


@pytest.fixture
def traced(monkeypatch):
    """Kernels are the functions themselves; the fixture changes them."""
    made = {"change": lambda function: function}
    for where in (kernels, direction_kernels):
        monkeypatch.setattr(where, "_kernels", {})
        monkeypatch.setattr(where, "_broken", set())
    monkeypatch.setattr(kernels, "_compile", lambda function, param: made["change"](function))
    monkeypatch.setattr(direction_kernels, "_compile", lambda function: made["change"](function))
    monkeypatch.setattr("hybridopt.cli.doctor.compare.compiles", lambda device: True)
    monkeypatch.setattr(builder, "available", lambda: False)
    return made


def states(check, machine):
    return {found.name: found.state for found in outcome(check, machine)}


def test_a_file_is_a_check_and_kinds_keep_together():
    files = Path(versions.__file__).parent.glob("[!_]*.py")
    assert len(checks()) == len(list(files)) == len(CHECKS)
    kinds = [check.kind for check in checks()]
    assert sorted(kinds, key=KINDS.index) == kinds and set(kinds) == set(KINDS)
    names = "philox rounding signsgd frugal adalomo nf4 mezo replay".split()
    assert [check.name.split()[0] for check in TEST] == names


def test_the_page_says_what_every_self_test_promises():
    rows = re.findall(r"^\| ([^|]+) \| [^|]* \| ([^|]*) \|$", (ROOT / "docs" / "doctor.md").read_text(), re.MULTILINE)
    promised = {name: text for name, text in rows if name in {check.name for check in TEST}}
    assert list(promised) == [check.name for check in TEST]
    assert f"{adalomo.BOUND.relative:.1e}".replace("e-0", "e-") in promised["adalomo"]
    assert f"{frugal.BOUND.share:.0%}".replace("%", " %") in promised["frugal"]
    assert f"{nf4_lora.BOUND.relative:.0%}".replace("%", " %") in promised["nf4 + LoRA"]


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_machine_passes_without_compiling(name, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "MOST", disk.CHUNK)
    monkeypatch.setattr(copying, "LARGEST", {"cpu": 1 << 20})
    found = outcome(CHECKS[name], Machine(CPU, tmp_path, compile=False))
    assert found and {one.state for one in found} <= {"ok", "skipped"}, found
    assert all(one.kind == CHECKS[name].kind and one.seconds > 0 and one.value for one in found)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("check", TEST, ids=lambda check: check.name)
def test_compiled_updates_are_compared_with_those_of_the_cpu(check, tmp_path, traced):
    found = outcome(check, Machine(CPU, tmp_path))
    assert {one.state for one in found} == {"ok"}, found
    assert ("cpu, compiled" in found[-1].value) == (check.name not in ("rounding", "nf4 + LoRA", "replay"))


def _tensors(value):
    """Every tensor of nested tuples, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    for one in value if isinstance(value, tuple) else ():
        yield from _tensors(one)


@pytest.mark.parametrize("name", ["philox", "signsgd", "frugal", "adalomo", "mezo"])
def test_kernels_that_compute_something_else_fail(name, tmp_path, traced):
    def wrong(function):
        def kernel(*given):
            out = function(*given)
            first = next(_tensors(given[1])) if isinstance(given[1], tuple) else given[0]
            first.view(-1)[: len(first.view(-1)) // 2] += 1
            return out

        return kernel

    traced["change"] = wrong
    found = outcome(CHECKS[name], Machine(CPU, tmp_path))[-1]
    assert found.state == "fail" and "cpu, compiled: " in found.value and "report" in found.cure


def test_without_a_compiler_results_are_the_same_and_the_line_says_what_to_install(tmp_path, traced, monkeypatch):
    def fail(function):
        raise OSError("no compiler here")

    traced["change"] = fail
    monkeypatch.setattr("hybridopt.cli.doctor.compare.compiles", lambda device: False)
    same, said = outcome(CHECKS["signsgd"], Machine(CPU, tmp_path))
    assert same.state == "ok" and "cpu, without a compiler" in same.value
    assert said.state == "warn" and "no compiler here" in said.value and said.cure.startswith("install a C++ compiler")


def test_without_a_compiler_for_cpp_kernels_the_line_says_what_to_install(tmp_path, traced, monkeypatch):
    """Warnings of updates end with a sentence on what to do, which is the line's cure."""
    known = {"_found": set(), "_missing": [], "_failed": set(), "_told": set(), "_built": {}, "available": AVAILABLE}
    for name, value in known.items():
        monkeypatch.setattr(builder, name, value)
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    said = [one for one in outcome(CHECKS["signsgd"], Machine(CPU, tmp_path)) if one.state == "warn"]
    assert [one.cure.partition(" (")[0] for one in said] == ["install g++"] and "(there is no C++" in said[0].value


def test_numbers_that_are_not_the_known_ones_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(mezo, "KNOWN", mezo.KNOWN + 1)
    assert "known" in outcome(CHECKS["mezo"], Machine(CPU, tmp_path, compile=False))[0].value
    monkeypatch.setattr(philox, "ANSWERS", ((*philox.ANSWERS[0][:2], philox.ANSWERS[1][2]),))
    assert states(CHECKS["philox"], Machine(CPU, tmp_path, compile=False)) == {"philox": "fail", "noise": "ok"}


def test_mezo_moves_weights():
    trained, start = mezo._trained(CPU, False), parameters(CPU, torch.bfloat16)
    assert all((trained[name] != p).float().mean() > 0.1 for name, p in start.items())


# ---- what a GPU has is told by hand


def of(findings):
    return {one.name: (one.state, one.value, one.cure) for one in findings}


def changed(**fields):
    return of(device.card(device.Card(**vars(H100) | fields)))


def test_a_gpu_is_described_and_its_free_memory_is_what_others_left():
    assert {state for state, *_ in of(device.card(H100)).values()} == {"ok"}
    state, value, cure = changed(free=30 * GIB, own=10 * GIB)["GPU memory"]
    assert state == "warn" and value == "30.00 GiB of 80.00 GiB free"
    assert "others hold 40.00 GiB" in cure and "--gpu 30720MiB" in cure


def test_a_gpu_that_torch_has_no_kernels_for():
    state, value, cure = changed(capability=(12, 0), compiled_for=("sm_80", "sm_90"))["GPU"]
    assert state == "fail" and "sm_120" in value and "pip install" in cure
    for capability, compiled_for in {
        (12, 0): ("sm_90", "compute_90"),
        (8, 6): ("sm_80",),
        (9, 0): ("sm_90a",),
    }.items():
        assert changed(capability=capability, compiled_for=compiled_for)["GPU"][0] == "ok"
    assert changed(capability=(8, 0), compiled_for=("sm_86",))["GPU"][0] == "fail"
    assert changed(capability=(7, 5), compiled_for=("sm_75",))["bfloat16"][0] == "warn"


def test_without_a_gpu_the_line_says_why():
    assert device.without_card(None, False, False).state == "skipped"
    assert "as asked" in device.without_card("13.0", True, True).value
    built, driver = device.without_card(None, True, False), device.without_card("13.0", True, False)
    assert built.state == driver.state == "warn" and "pip install" in built.cure and "nvidia-smi" in driver.cure


def test_packages_are_held_to_what_is_needed():
    there = {"torch": "2.13.0+cu130", "peft": "0.10", "numpy": "3.0rc1"}.get
    needed = ["torch>=2.10", "peft>=0.19", "bitsandbytes>=0.49", "numpy>=1.26", 'pytest>=8; extra == "test"']
    found = of(versions.required(needed, there))
    assert {name: state for name, (state, *_) in found.items()} == {
        "torch": "ok",
        "peft": "fail",
        "bitsandbytes": "fail",
        "numpy": "ok",
    }
    assert found["bitsandbytes"][2] == "pip install 'bitsandbytes>=0.49'" and "0.10, and >=0.19" in found["peft"][1]
    assert [versions.triton(v, cuda).state for v, cuda in [("3", True), (None, False), (None, True)]] == [
        "ok",
        "skipped",
        "warn",
    ]


@pytest.mark.parametrize(("own", "says"), [(None, "it is not installed"), ("0.0.9", "0.0.9 is installed")])
def test_a_folder_that_is_not_installed_is_no_failure(own, says, monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "installed", lambda name: own if name == "hybridopt" else "99")
    found = of(outcome(CHECKS["versions"], Machine(CPU, tmp_path)))
    assert found["hybridopt"][0] == "warn" and "pip install" in found["hybridopt"][2]
    assert found["hybridopt"][1].startswith(f"{versions.__version__}, run from a folder; {says}")
    assert {found[name][0] for name in versions.KNOWN} == {"ok"}


@pytest.mark.parametrize(
    ("tried", "cuda", "state", "text"),
    [
        (Trial(1.5), False, "ok", "1.5 s"),
        (Trial(1.5, "InvalidCxxCompiler: none"), False, "warn", "g++"),
        (Trial(1.5, "TritonMissing: none"), True, "warn", "pip install triton"),
        (Trial(1.5, "RuntimeError: Failed to find C compiler", False), True, "fail", "compile=False"),
    ],
)
def test_what_does_not_compile_says_what_to_install(tried, cuda, state, text):
    found = compiler.compiler(tried, cuda)
    assert found.state == state and text in f"{found.value} {found.cure}"


def test_a_trial_tells_the_compilers_errors_from_others(monkeypatch):
    monkeypatch.setattr(compiling, "compiled", lambda function, number, dynamic: function)
    assert not compiling.trial.__wrapped__(CPU).why
    for error, survived in ((OSError("no g++"), True), (RuntimeError("no C compiler"), False)):
        monkeypatch.setattr(compiling, "compiled", lambda function, number, dynamic, error=error: _raising(error))
        tried = compiling.trial.__wrapped__(CPU)
        assert str(error) in tried.why and tried.survived == survived
    monkeypatch.setattr(compiling, "compiled", lambda function, number, dynamic: lambda x, out: out.copy_(x))
    assert "wrong result" in compiling.trial.__wrapped__(CPU).why and not compiling.trial.__wrapped__(CPU).survived


def _raising(error):
    def function(*_):
        raise error

    return function


def test_a_printed_kernel_is_launched_on_the_device_that_is_looked_at(monkeypatch):
    device, seen = CurrentDevice(monkeypatch), list[int]()
    kernel = {(4,): lambda *given, **constants: seen.append(device.index)}
    monkeypatch.setattr(printed_kernel, "defined", lambda text, title: {"kernel": kernel})
    printed_kernel._launch(device.tensor(1), device.tensor(1))
    assert seen == [1] and device.index == 0


def test_printed_kernels_are_right_or_left_out():
    right = printed_kernel.printed_kernel(CPU, lambda x, out: out.copy_(2 * x + 1))
    wrong = printed_kernel.printed_kernel(CPU, lambda x, out: out.copy_(x))
    none = printed_kernel.printed_kernel(CPU, _raising(ModuleNotFoundError("No module named 'triton'")))
    assert [one.state for one in (right, wrong, none)] == ["ok", "fail", "warn"]
    assert "pip install triton" in none.cure and "No module named 'triton'" in none.value


def test_bitsandbytes_that_is_missing_or_wrong_fails_by_name(tmp_path, monkeypatch):
    machine, check = Machine(CPU, tmp_path), CHECKS["bitsandbytes"]
    with monkeypatch.context() as patch:
        patch.setattr(bitsandbytes, "restated", lambda weight: -weight)
        assert states(check, machine) == {"bitsandbytes": "fail"}
    with monkeypatch.context() as patch:
        patch.setattr(bitsandbytes, "OFF", {4: 0.01, 8: 0.001})
        (found,) = outcome(check, machine)
        assert found.state == "fail" and "nf4: products are off by" in found.value
    for module in ("cextension", "functional"):
        monkeypatch.setitem(sys.modules, f"bitsandbytes.{module}", None)
    assert states(CHECKS["nf4 + LoRA"], machine) == {"nf4 + LoRA": "skipped"}, "one line says it"
    (found,) = outcome(check, machine)
    assert found.state == "fail" and "pip install -U bitsandbytes" in found.cure and "\n" not in found.value


def test_speeds_are_measured_where_there_is_room(tmp_path):
    assert copying.size_for(None, "cpu") == copying.LARGEST["cpu"] and copying.size_for(8000, "cuda") == 1000
    assert copying.copied(CPU, 1 << 20).numbers["bytes_per_second"] > 1e6
    assert copying.copied(CPU, 1000).state == "warn"
    to, back = bus.measured(torch.zeros(1 << 20, dtype=torch.uint8), CPU)
    assert to > 1e6 and back > 1e6
    assert [bus.judged((25e9, 24e9), True).state, bus.judged((25e9, 2e9), True).state] == ["ok", "warn"]
    assert bus.judged((3e9, 2e9), False).state == "ok"
    found = disk.written_and_read(tmp_path, 2 * disk.CHUNK)
    assert found.numbers["bytes"] == 2 * disk.CHUNK and found.numbers["read_bytes_per_second"] > 1e6
    assert disk.written_and_read(tmp_path, 100).state == "warn" and not list(tmp_path.iterdir())


def test_a_containers_limits_count(tmp_path):
    assert host_memory.left(tmp_path) is None and threads.granted(tmp_path, 8) == 8

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable:   64 kB\n")
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "5000\n")
    write("sys/fs/cgroup/cpu.max", "max 100000\n")
    assert host_memory.left(tmp_path) == 65536 and threads.granted(tmp_path, 8) == 8
    write("sys/fs/cgroup/memory.max", "6000\n")
    write("sys/fs/cgroup/memory.stat", "anon 7\ninactive_file 300\n")
    write("sys/fs/cgroup/cpu.max", "150000 100000\n")
    assert host_memory.left(tmp_path) == 1300 and threads.granted(tmp_path, 8) == 1.5
    found = threads.threads(8, 1.5, "AVX2")
    assert found.state == "warn" and "OMP_NUM_THREADS=1" in found.cure and threads.threads(1, 0.5, "").state == "ok"
