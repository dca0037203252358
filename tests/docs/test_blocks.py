"""Every Python block of every page runs as pasted, or is marked as a fragment and parses."""

import ast
import contextlib
import io
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hybridopt.cli.main import app
from support.pages import PAGES, blocks, commands, programs
from support.paths import ROOT

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
README_EXAMPLE = "README.md:"  # runs in test_readme.py, in a process of its own
PROGRAMS = {str(p[0]): p for page in PAGES for p in programs(page) if not str(p[0]).startswith(README_EXAMPLE)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A function that runs a program, once, in a folder of its own; returns its namespace and what it has printed."""

    @cache
    def run(name):
        space, printed = {"__name__": "__main__"}, io.StringIO()
        folder = tmp_path_factory.mktemp("page")
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed), torch.random.fork_rng():
            for block in PROGRAMS[name]:
                exec(block.compiled(), space)
        return space | {"folder": folder}, printed.getvalue()

    return run


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run_as_pasted(ran, name):
    ran(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_fragments_parse_and_no_fence_is_missed(page):
    for block in blocks(page, "python"):
        if block.mark == "fragment":
            ast.parse(block.text)
    assert len(re.findall(r"^\s*```", page.read_text(), re.MULTILINE)) == 2 * len(blocks(page))


def program(page, text):
    """The name of the one program on a page in which this text stands."""
    (name,) = [n for n, p in PROGRAMS.items() if n.startswith(f"docs/{page}:") and any(text in b.text for b in p)]
    return name


def test_the_own_policy_is_one(ran):
    policy = ran(program("policies.md", "Block(density=0.5"))[0]["policy"]
    assert type(policy).from_json(policy.to_json()) == policy


def test_the_fused_lines_train(ran):
    space, _ = ran(program("fused-release.md", 'release="fused"'))
    before = start(space).parameters()
    assert all(p.grad is None and not p.equal(b) for p, b in zip(space["model"].parameters(), before, strict=True))
    assert space["optimizer"].grad_norm > 0


def start(space):
    """The model of a page as it was before training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return space["LlamaForCausalLM"](space["config"])


@pytest.mark.parametrize("count", [1, 2])
def test_the_zeroth_order_lines_train(tmp_path, monkeypatch, count):
    space, (first, second, *_) = {}, PROGRAMS[program("zeroth-order.md", 'policy="mezo"')]
    assert 'policy="mezo"' in first.text and 'policy="addax"' in second.text
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        for block in (first, second)[:count]:
            exec(block.compiled(), space)
    before = space["base_model"]().parameters()
    assert all(not p.equal(q) for p, q in zip(space["model"].parameters(), before, strict=True))
    assert space["optimizer"].probes_needed


def test_what_is_refused_is_refused_with_the_text_of_the_page(ran):
    text = next(block.text for block in blocks(DOCS / "combinations.md", "text"))
    assert ran(program("combinations.md", "muon"))[1] == text


def test_the_replay_command_rebuilds_the_weights(ran, tmp_path, monkeypatch):
    space, _ = ran(program("zeroth-order.md", 'policy="mezo"'))
    monkeypatch.chdir(tmp_path)
    hybridopt, base_model, batch = space["hybridopt"], space["base_model"], space["batches"][0]
    base_model().save_pretrained("base_folder")
    model = hybridopt.wrap(base_model(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-4)
    for _ in range(3):
        optimizer.step(lambda: model(**batch).loss)
    model.hybrid.save_pretrained("adapter_folder")
    (command,) = [line for line in commands() if " replay " in line]
    words = [str(Path(sys.executable).with_name("hybridopt")), *command.split()[1:]]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    again = type(model).from_pretrained("rebuilt")
    assert all(p.equal(q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_the_plan_commands_run():
    found = sorted({line for line in commands() if " plan " in line})
    assert len(found) == 6
    for command in (line for line in found if "--policy" in line):  # a search takes a minute; tests/planning/ runs one
        done = CliRunner().invoke(app, command.split()[1:])
        assert done.exit_code == 0 and "peak" in done.output


def test_commands_of_hybridopt_are_there():
    known = {c.name or c.callback.__name__ for c in app.registered_commands}
    text = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"(?:`|^)hybridopt (\w+)", text, re.MULTILINE)) <= known
