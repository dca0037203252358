"""What the README says is what happens: its commands, its examples, its tables."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(script, folder):
    """Run a script as a user would, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ci_runs_the_two_commands_of_the_readme():
    commands = blocks("bash")[0].strip().splitlines()
    assert len(commands) == 2
    assert [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line in commands] == commands


def test_every_direct_dependency_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {re.match(r"[\w.-]+", d).group() for d in wanted} <= pins.keys()


def test_the_example_runs_as_pasted_and_prints_the_table(tmp_path):
    (tmp_path / "example.py").write_text(blocks("python")[0])
    printed = run("example.py", tmp_path)
    assert blocks("text")[0].strip() in printed
    assert float(re.search(r"loss (\d+\.\d+)", printed).group(1)) < 4.5  # ln 256 = 5.5 at the start
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_the_own_policy_is_one(tmp_path):
    (tmp_path / "policy.py").write_text(blocks("python")[1] + "\nprint(Policy.from_json(policy.to_json()) == policy)")
    assert run("policy.py", tmp_path).strip() == "True"


def test_the_fused_lines_run(tmp_path):
    start = blocks("python")[0].split("model = hybridopt.wrap(")[0]
    given = """
model = hybridopt.wrap(base_model(), policy="adalomo")
tokens = torch.randint(256, (2, 32))
first = second = {"input_ids": tokens, "labels": tokens}
before = [p.clone() for p in model.parameters()]
"""
    check = """
print(all(p.grad is None and not p.equal(b) for p, b in zip(model.parameters(), before)), optimizer.grad_norm > 0)
"""
    (tmp_path / "fused.py").write_text(start + given + blocks("python")[2] + check)
    assert "fused" in blocks("python")[2]
    assert run("fused.py", tmp_path).strip() in ("True True", "True tensor(True)")


@pytest.mark.parametrize("index", [3, 4])
def test_the_zeroth_order_lines_run(index, tmp_path):
    start = blocks("python")[0].split("model = hybridopt.wrap(")[0]
    given = """
tokens = torch.randint(256, (2, 32))
batches = [{"input_ids": tokens, "labels": tokens}] * 2
pairs = [(batches[0], {"input_ids": tokens[:, :8], "labels": tokens[:, :8]})] * 2
"""
    check = """
print(all(not p.equal(q) for p, q in zip(model.parameters(), base_model().parameters())), optimizer.probes_needed)
"""
    (tmp_path / "zeroth.py").write_text(start + given + blocks("python")[index] + check)
    assert ("mezo" in blocks("python")[index]) == (index == 3) and ("addax" in blocks("python")[index]) == (index == 4)
    assert run("zeroth.py", tmp_path).strip() == "True True"


def test_the_replay_command_rebuilds_the_weights(tmp_path):
    start = blocks("python")[0].split("model = hybridopt.wrap(")[0]
    train = """
base_model().save_pretrained("base_folder")
model = hybridopt.wrap(base_model(), policy="mezo")
optimizer = model.hybrid.optimizer(lr=1e-4)
tokens = torch.randint(256, (2, 32))
for _ in range(3):
    optimizer.step(lambda: model(input_ids=tokens, labels=tokens).loss)
model.hybrid.save_pretrained("adapter_folder")
"""
    compare = """
again = LlamaForCausalLM.from_pretrained("rebuilt")
print(all(p.equal(q) for p, q in zip(model.parameters(), again.parameters())))
"""
    (command,) = [line for block in blocks("bash")[1:] for line in block.splitlines() if " replay " in line]
    words = [str(Path(sys.executable).with_name("hybridopt")), *command.split()[1:]]
    shell = f"import subprocess; subprocess.run({words!r}, check=True, stdout=subprocess.DEVNULL)\n"
    (tmp_path / "replay.py").write_text(start + train + shell + compare)
    assert run("replay.py", tmp_path).strip() == "True"


def test_the_table_of_addax_is_the_benchmarks():
    results = (ROOT / "benchmarks" / "results" / "addax.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in results.splitlines() if line.startswith("|")]
    rows = [r for r in rows if len(r) == 12 and r[2][:1].isdigit()]
    assert len(rows) == 9
    for name, _, accuracy, _, _, gain, _, seconds, _, saved, taken, _ in rows:
        assert f"| {name} | {accuracy} | {gain} | {seconds} | {saved} | {taken} |" in README


def test_the_policies_of_the_table_are_those_there_are():
    from hybridopt.core.registry import names

    assert tuple(sorted(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))) == names("policies")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example, tmp_path):
    losses = re.findall(r"loss'?:? '?(\d+\.\d+)", run(str(example), tmp_path))
    assert float(losses[-1]) < float(losses[0])


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_measured_table_is_the_benchmarks():
    results = (ROOT / "benchmarks" / "results" / "sst2.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in results.splitlines() if "±" in line]
    rows = [r for r in rows if len(r) == 10]
    assert len(rows) == 8
    for name, _, test, gain, _, state, weights, _, cpu, _ in rows:
        assert f"| {name} | {test} | {gain} | {state} | {weights} | {cpu} |" in README


def test_the_pre_training_table_is_the_benchmarks():
    results = (ROOT / "benchmarks" / "results" / "pretrain.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in results.splitlines() if "±" in line]
    rows = [r for r in rows if len(r) == 8]
    assert len(rows) > 15
    for name, rate, loss, gain, state, *_ in rows:
        assert f"| {name} | {rate} | {loss} | {gain} | {state} |" in README


@pytest.mark.parametrize("name", ["fits", "fit_70b_table"])
def test_tables_of_plans_are_those_of_their_benchmarks(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module(name)
    document = json.loads(module.FILE.read_text())
    page = module.BLOCK.page.read_text()
    assert page == module.BLOCK.into(page, document), f"run: python benchmarks/{name}.py --write"


def test_the_table_of_what_fits_is_the_planners(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    fits = importlib.import_module("fits")
    document = json.loads(fits.FILE.read_text())
    assert list(document["models"]) == list(fits.MODELS)
    estimator = fits.Estimator(fits.subject_of("llama-3.2-1b"))
    way = fits.WAYS[0]
    peaks = [estimator.estimate(fits.Request(**way.settings, **v)).peak_bytes for v in fits.VARIANTS[:2]]
    known = document["models"]["llama-3.2-1b"][0]
    assert known["title"] == way.title and peaks == [pytest.approx(x, rel=0.01) for x in known["peaks"][:2]]


def test_the_plan_commands_run(tmp_path):
    commands = [line.split() for block in blocks("bash")[1:] for line in block.splitlines() if " plan " in line]
    assert len(commands) == 2
    from typer.testing import CliRunner

    from hybridopt.cli.main import app

    for command in commands[1:]:  # the search takes a minute; tests/planning/ runs one
        done = CliRunner().invoke(app, command[1:])
        assert done.exit_code == 0 and "peak" in done.output
