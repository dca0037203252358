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


def test_what_24_gb_take_is_the_column_of_the_table():
    lines = README.partition("<!-- fits:")[2].partition("<!-- end of fits -->")[0].splitlines()
    head, *rows = (line.split(" | ") for line in lines if line.startswith("| "))
    column = next(i for i, title in enumerate(head) if "4090" in title)
    ways = {row[0].strip("| "): row[column] for row in rows}
    assert "AdamW, 8-bit state" in ways["llama-3.2-3b"] and "FRUGAL" in ways["llama-3-8b"]
    assert "AdamW on LoRA, 8-bit base" in ways["qwen2.5-14b"] and "AdamW on LoRA, nf4 base (" in ways["qwen2.5-32b"]
    assert "nf4 base, layers on the host" in ways["llama-3-70b"]


def test_the_largest_error_of_a_plan_is_that_of_its_table():
    page = (ROOT / "benchmarks" / "results" / "plan_grid.md").read_text()
    rows = re.findall(r"op by op \| \+?(-?[\d.]+) % \| [\d.]+ % \| [+-]([\d.]+) %", page)
    assert {float(median) for median, _ in rows} == {0.0}
    assert f"median error 0.00 %, the largest {max(float(most) for _, most in rows):.2f} %" in README


def test_numbers_of_the_results_are_those_of_the_pages():
    start, end = README.index("## Measured"), README.index("## Limits")
    pages = (ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "results" / "finetune.md")
    results = "".join(page.read_text() for page in pages)
    numbers = set(re.findall(r"\d+\.\d+", README[start:end]))
    assert len(numbers) > 40
    assert {n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", results)} == set()
