"""What the README says is what happens: its commands, its example, its numbers."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from support.pages import blocks
from support.paths import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "README.md"
README = PAGE.read_text()


def test_it_stays_short():
    assert len(README.splitlines()) <= 222, "move details to a page of docs/"


def test_ci_runs_the_two_commands_of_the_readme_first():
    commands = blocks(PAGE, "bash")[0].text.splitlines()
    assert len(commands) == 2
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if "pip install" in line][:2] == commands


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    names = {re.match(r"[\w.-]+", d).group() for d in wanted}
    assert names - {project["name"]} <= pins.keys() and len(names) > 20


def test_the_tests_have_what_training_needs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "hybridopt[train]" in extras["test"] and len(extras["train"]) == 4


def test_the_example_runs_as_pasted_and_prints_the_table(tmp_path):
    (tmp_path / "example.py").write_text(blocks(PAGE, "python")[0].text)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "example.py"]  # in a process of its own, as a user would
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert blocks(PAGE, "text")[0].text.strip() in done.stdout
    assert float(re.search(r"loss (\d+\.\d+)", done.stdout).group(1)) < 4.5  # ln 256 = 5.5 at the start
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_numbers_of_the_results_are_those_of_the_pages():
    start, end = README.index("## Measured"), README.index("## Limits")
    pages = (ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "results" / "finetune.md")
    results = "".join(page.read_text() for page in pages)
    numbers = set(re.findall(r"\d+\.\d+", README[start:end]))
    assert len(numbers) > 40
    assert {n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", results)} == set()
