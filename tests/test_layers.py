"""Imports point one way, stay light, and every package is shipped."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hybridopt"
LAYERS = (
    ("errors",),
    ("rounding", "grids", "gradients", "alive", "losses"),
    ("base",),
    ("noise", "philox"),
    ("direction_kernels",),
    ("directions",),
    ("rules", "splits", "sources", "schedules", "codecs", "stores", "partition"),
    ("scales",),
    ("roles",),
    ("find", "treatment", "plain_json", "lock", "tensors", "int8_layers"),
    ("policy", "state", "manifest", "checksums"),
    ("policies", "update", "plan", "loading", "folder", "estimate"),
    ("execution", "report", "tagging", "shards"),
    ("windows",),
    ("zeroth",),
    ("updates", "replay_file"),
    ("releases",),
    ("persistent", "probing"),
    ("optimizer",),
    ("bases",),
    ("recording",),
    ("strategy",),
    ("wrapping", "fitting"),
    ("rebuilding",),
    ("checkpoint",),
    ("replays",),
    ("planning",),
    ("demo",),
    ("cli_replay", "cli_plan"),
    ("cli",),
)
BACK = {  # inside a method: model.hybrid.save_pretrained, model.hybrid.plan, wrap(policy="auto")
    ("strategy", "checkpoint"),
    ("strategy", "planning"),
    ("wrapping", "planning"),
}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(f for f in PACKAGE.rglob("*.py") if f != PACKAGE / "__init__.py")
HEAVY = ("transformers", "peft", "bitsandbytes", "accelerate", "trl")


def unit(module):
    """hybridopt.splits.block -> splits; hybridopt.plan -> plan."""
    return module.split(".")[1] if "." in module else module


def module_of(file):
    path = file.relative_to(ROOT).with_suffix("")
    return ".".join(path.parts[:-1] if path.name == "__init__" else path.parts)


def imports(file):
    """(full module name, is it inside a function) of everything a file imports."""
    tree = ast.parse(file.read_text())
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    package = module_of(file).split(".")[: None if file.name == "__init__.py" else -1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, node.module] if node.module else base)
            own = stem == "hybridopt"  # from . import plain_json
            yield from ((f"{stem}.{a.name}" if own else stem, node in inner) for a in node.names)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_up(file):
    me = unit(module_of(file))
    assert me in LEVEL, f"{me} has no layer; give it one in LAYERS"
    for target, inside in imports(file):
        top = target.split(".")[0]
        assert inside or top not in HEAVY, f"{file.name} imports {target} at the top"
        other = unit(target)
        if top != "hybridopt" or other == me or (target == top and me in ("demo", "cli")):
            continue
        if other == "integrations":
            assert inside or me in ("checkpoint", "cli", "demo"), f"{file.name} imports {target} at the top"
        elif not (inside and (me, other) in BACK):
            assert LEVEL.get(other, LEVEL["demo"]) < LEVEL[me], f"{me} imports {other}, which is not above it"


@pytest.mark.parametrize("kind", ["rules", "splits", "sources", "schedules", "codecs", "stores"])
def test_parts_know_no_other_kind_of_part(kind):
    for file in (PACKAGE / kind).glob("*.py"):
        mine = [t for t, _ in imports(file) if t.startswith("hybridopt.")]
        allowed = ("base", "errors", "rounding", "grids", "noise", "directions", kind)
        assert all(unit(t) in allowed for t in mine), (file, mine)


def test_import_is_light():
    code = f"import sys, hybridopt; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {module_of(f) for f in PACKAGE.rglob("__init__.py")}
    deeper = [f.parent.relative_to(ROOT / "integrations") for f in (ROOT / "integrations").rglob("__init__.py")]
    found |= {".".join(("hybridopt.integrations", *path.parts)) for path in deeper}
    assert set(settings["packages"]) == found
    assert {f.parent for f in FILES} == {f.parent for f in PACKAGE.rglob("__init__.py")}, "a folder is no package"
    assert settings["package-dir"] == {"hybridopt": "hybridopt", "hybridopt.integrations": "integrations"}
