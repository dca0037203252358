"""gpu.sh is bash, and what it starts asks benchmarks for what they have."""

import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import PARTS
from support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def test_it_is_bash():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.parametrize("machine", [Machine("cpu"), Machine("cuda", 1 << 36)], ids=["dry", "cuda"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_its_options_are_known(part, machine):
    package = (ROOT / part.module.replace(".", "/")).is_dir()
    main = import_module(f"{part.module}.__main__" if package else part.module)
    options = main.parse([*part.given(machine, 60, Path("data")), "--out", "here"])
    assert options.out == Path("here")
    assert options.device == machine.device or machine.device == "cpu" and part.beside


def test_all_that_needs_a_gpu_is_in_it():
    mains = SCRIPT.parent.glob("*/*.py")
    asked = {f"benchmarks.{f.parent.name}" for f in mains if '"--device"' in f.read_text()} - {"benchmarks.gpu"}
    assert {".".join(part.module.split(".")[:2]) for part in PARTS} == asked
