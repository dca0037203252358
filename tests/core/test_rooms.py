"""Imports point one way, stay light, and every package is shipped."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter

import pytest

from hybridopt import parts
from hybridopt.core.registry import PARTS, names
from support.paths import ROOT
from support.sources import FILES, found_in, path, tree

PACKAGE = ROOT / "hybridopt"
ROOMS = (  # a file imports from its own room and from those before it, within functions too
    "core",
    "parts",
    "model",
    "policy",
    "execution",
    "optimizer",
    "saving",
    "planning",
    "planned",
    "wrapped",
    "saved",
    "strategy",
    "auto",
    "wrap_checks",
    "wrapping",
    "reloading",
    "hybridopt",
    "training",
    "cli",
    "__main__",
    "integrations",
)
LEVEL = {name: level for level, name in enumerate(ROOMS)}
LIBRARIES = ("peft", "bitsandbytes", "accelerate", "trl")  # what is special to them lies in integrations
HEAVY = ("transformers", *LIBRARIES)
MOST_LINES = 250  # of a file


def room(module):
    """hybridopt.parts.splits.block -> parts; hybridopt.wrapping -> wrapping; hybridopt -> hybridopt."""
    return module.split(".")[1] if "." in module else module


def module_of(file):
    path = file.relative_to(ROOT).with_suffix("")
    parts = ("hybridopt", *path.parts) if path.parts[0] == "integrations" else path.parts
    return ".".join(parts[:-1] if path.name == "__init__" else parts)


def imports(file):
    """(full module name, is it inside a function) of everything a file imports."""
    inner = {n for f in ast.walk(tree(file)) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    package = module_of(file).split(".")[: None if file.name == "__init__.py" else -1]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:  # `from . import room` and `from .room import name` alike
                yield (
                    (f"{stem}.{alias.name}" if (PACKAGE.parent / stem.replace(".", "/")).is_dir() else stem),
                    (node in inner),
                )


def test_files_are_small():
    lengths = {module_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}, "move a part of it to a file"


def test_every_file_lies_in_a_room():
    assert {room(module_of(file)) for file in FILES} <= LEVEL.keys(), "give it a place in ROOMS"


def test_imports_point_down():
    for file, (target, inside) in found_in(FILES, imports):
        me, top = room(module_of(file)), target.split(".")[0]
        assert inside or top not in HEAVY or me == "integrations", f"{path(file)} imports {target} at the top"
        assert top not in LIBRARIES or me in ("integrations", "cli"), f"{path(file)} imports {target}"
        other = room(target)
        if top == "hybridopt" and other in LEVEL:
            assert LEVEL[other] <= LEVEL[me], f"{path(file)} imports {target}, which lies above it"


def test_integrations_are_found_by_name_only():
    """No file of the package but the one that looks for files there, spells out where they lie."""
    for file in PACKAGE.rglob("*.py"):
        spelled = [node.value for node in ast.walk(tree(file)) if isinstance(node, ast.Constant)]
        where = [x for x in spelled if isinstance(x, str) and re.search(r"(?<!transformers)\.integrations\b", x)]
        assert not where or file == PACKAGE / "core" / "part_files.py", (file, where)


@pytest.mark.parametrize("kind", ["rules", "splits", "sources", "schedules", "codecs", "stores"])
def test_parts_know_no_other_kind_of_part(kind):
    for file in (PACKAGE / "parts" / kind).glob("*.py"):
        mine = [t for t, _ in imports(file) if t.startswith("hybridopt.")]
        assert all(t.startswith(("hybridopt.core.", f"hybridopt.parts.{kind}")) for t in mine), (file, mine)


@pytest.mark.parametrize("name", dir(parts))
def test_every_part_is_found_by_its_class_name(name):
    assert getattr(parts, name).__name__ == name


def test_a_part_that_is_not_there_lists_the_others():
    with pytest.raises(AttributeError, match=r"no part 'Collumns'; did you mean 'Columns'\? Known: .*Columns"):
        _ = parts.Collumns


def test_an_import_of_a_part_that_is_not_there_names_the_near_one():
    with pytest.raises(ImportError, match="no part 'Collumns'; did you mean 'Columns'"):
        from hybridopt.parts import Collumns  # noqa: F401
    assert not hasattr(parts, "Collumns")
    from hybridopt.parts import Columns, rules  # noqa: F401


def test_all_parts_are_imported_by_a_star():
    found = {}
    exec("from hybridopt.parts import *", found)
    assert set(dir(parts)) <= found.keys()


def test_class_names_of_parts_are_unique():
    assert len(dir(parts)) == sum(len(names(kind)) for kind in PARTS)


def test_import_is_light():
    """It is nothing that takes seconds, and neither is `wrap`."""
    code = (
        f"import sys, hybridopt; hybridopt.wrap; print([m for m in {(*HEAVY, 'torch._dynamo')} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == {module_of(f) for f in FILES if f.name == "__init__.py"}
    assert {f.parent for f in FILES} == {f.parent for f in FILES if f.name == "__init__.py"}, "a folder is no package"
    assert settings["package-dir"] == {"hybridopt": "hybridopt", "hybridopt.integrations": "integrations"}


def test_every_file_that_is_read_is_shipped():
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["hybridopt"]
    kept = {f for glob in globs for f in (ROOT / "hybridopt").glob(glob) if f.suffix not in (".py", ".pyc")}
    there = {f for f in (ROOT / "hybridopt").rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")}
    assert {f for f in there if f.name != "README.md"} == kept


def test_no_two_classes_have_one_name():
    classes = Counter(node.name for file in FILES for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef))
    assert [name for name, count in classes.items() if count > 1 and not name.startswith("_")] == []


# ---- benchmarks and examples: outside of the package, which they use as its users do

OUTSIDE = sorted(f for folder in ("benchmarks", "examples") for f in (ROOT / folder).rglob("*.py"))


def test_benchmarks_and_examples_import_the_package_and_not_each_other():
    """A table of the benchmarks imports itself and benchmarks.shared; examples import nothing beside them."""
    for file, (target, _) in found_in(OUTSIDE, imports):
        folder, mine = module_of(file).split(".")[0], module_of(file).split(".")[1:2]
        top, *rest = target.split(".")
        assert top not in {"tests", "support", "integrations", "examples"}, f"{path(file)} imports {target}"
        if top == "benchmarks":
            assert folder == top and rest[:1] in (mine, ["shared"]), f"{path(file)} imports {target}, of another table"


def test_every_folder_of_the_benchmarks_is_a_table_or_shared():
    folders = {f.parent for f in OUTSIDE if f.parent.parent.name == "benchmarks"}
    assert {f.name for f in folders if not (f / "__main__.py").exists()} == {"shared"}
    assert all((f / "__init__.py").exists() for f in folders)
