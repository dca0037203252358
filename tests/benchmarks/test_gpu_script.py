"""gpu.sh is bash, and what it starts asks benchmarks for what they have."""

import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.views import VIEWS
from benchmarks.gpu.work import rows_of
from support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def module_of(part):
    """The module of its command line."""
    package = (ROOT / part.module.replace(".", "/")).is_dir()
    return import_module(f"{part.module}.__main__" if package else part.module)


def test_it_is_bash():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.parametrize("machine", [Machine("cpu"), Machine("cuda", 1 << 36)], ids=["dry", "cuda"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_its_options_are_known(part, machine):
    options = module_of(part).parse([*part.given(machine, 60, Path("data")), "--out", "here"])
    assert options.out == Path("here")
    assert options.device == machine.device or machine.device == "cpu" and part.beside


def test_all_that_needs_a_gpu_is_in_it():
    mains = SCRIPT.parent.glob("*/*.py")
    asked = {f"benchmarks.{f.parent.name}" for f in mains if '"--device"' in f.read_text()} - {"benchmarks.gpu"}
    assert {".".join(part.module.split(".")[:2]) for part in PARTS} == asked


@pytest.mark.parametrize("name", ["mezo", "noise", "counts", "sampled"])
def test_what_quick_parts_write_is_what_their_tables_read(name, tmp_path, capsys):
    part = next(part for part in PARTS if part.name == name)
    arguments = [*part.given(Machine("cpu"), 600, None), "--out", str(tmp_path)]
    if name == "counts":
        arguments += ["--rows", "signsgd"]
    module_of(part).main(arguments)
    (file,) = tmp_path.glob("*.jsonl")
    lines = VIEWS[name].lines({name: rows_of(file)}, Machine("cpu"))
    assert lines and all(len(line.cells) == len(VIEWS[name].columns) for line in lines), lines
