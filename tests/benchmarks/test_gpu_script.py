"""gpu.sh is bash, and asks benchmarks for what they have."""

import re
import subprocess
from importlib import import_module

import pytest

from support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
LINES = SCRIPT.read_text().replace("\\\n", "").splitlines()
COMMANDS = [found.groups() for line in LINES if (found := re.search(r'"\$python" -m benchmarks\.(\w+) (.*)', line))]


def test_it_is_bash():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.parametrize(("table", "options"), COMMANDS)
def test_its_options_are_known(table, options, capsys):
    with pytest.raises(SystemExit):
        import_module(f"benchmarks.{table}.__main__").parse(["--help"])
    assert set(re.findall(r"--[a-z-]+", options)) <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_all_that_needs_a_gpu_is_in_it():
    mains = SCRIPT.parent.glob("*/__main__.py")
    assert {table for table, _ in COMMANDS} == {f.parent.name for f in mains if '"--device"' in f.read_text()}
