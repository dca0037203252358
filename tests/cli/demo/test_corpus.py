"""The demo's task: labels hidden, whole modules held out, nothing in training that resembles a test text."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hybridopt.cli.demo import corpus
from hybridopt.cli.demo.corpus import CANDIDATES, build, hold_out, without_resembling
from hybridopt.cli.demo.snippets import Snippet, masked, module_paths, module_snippets
from hybridopt.core.errors import HybridOptError


@pytest.fixture(scope="module")
def real():
    return build()


def snippet(text: str, package: str = "email", module: str = "email/a.py") -> Snippet:
    return Snippet(package, module, "source", text)


def library(root: Path, packages: list[str], modules: int = 4, functions: int = 20) -> Path:
    """A standard library of functions whose texts have nothing in common."""
    words = random.Random(0)
    for package in packages:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text(f"import {package}.module0\n")
        for number in range(modules):
            parts = [_function(words, f"{package}{number}x{i}") for i in range(functions)]
            (root / package / f"module{number}.py").write_text("\n".join(parts))
    return root


def _function(words: random.Random, name: str) -> str:
    lines = [f"    v{words.randbytes(6).hex()} = '{words.randbytes(12).hex()}'" for _ in range(4)]
    return "\n".join([f"def f_{name}(a):", *lines, ""])


def test_the_running_python_gives_a_balanced_task(real):
    sizes = {label: sum(s.package == label for s in real.train) for label in real.labels}
    assert len(real.labels) >= 8
    assert min(sizes.values()) >= 0.5 * max(sizes.values())
    assert real.floor < 0.2


def test_no_text_names_any_label(real):
    named = re.compile("|".join(real.labels), re.IGNORECASE)
    assert not [s for s in (*real.train, *real.test) if named.search(s.text)]


def test_whole_modules_are_held_out(real):
    for label in real.labels:
        trained, tested = ({s.module for s in part if s.package == label} for part in (real.train, real.test))
        assert trained and tested and not trained & tested


def test_no_training_text_shares_a_line_or_a_run_of_words_with_a_test_text(real):
    assert real.dropped > 0
    lines = {line.lower() for s in real.test for line in s.text.splitlines() if len(line) >= 30}
    assert not [s for s in real.train if lines & set(s.text.lower().splitlines())]
    for s in real.test[:40]:
        runs = _runs(s.text)
        assert not [t for t in real.train if runs & _runs(t.text)]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 8]) for i in range(max(1, len(words) - 7))}


def test_the_same_seed_gives_the_same_task_in_another_process(tmp_path):
    root = library(tmp_path, list(CANDIDATES[:4]))
    code = f"from hybridopt.cli.demo.corpus import build; print([s.text for s in build({str(root)!r}).train])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str([s.text for s in build(root).train])


def test_another_seed_holds_out_other_modules(tmp_path):
    root = library(tmp_path, list(CANDIDATES[:5]), modules=8)
    first, second = ({s.module for s in build(root, seed).test} for seed in (0, 1))
    assert first != second


def test_the_task_does_not_depend_on_where_the_library_lies(tmp_path):
    one, two = (library(tmp_path / name, list(CANDIDATES[:4])) for name in ("here", "there"))
    assert build(one) == build(two)


def test_packages_that_are_missing_or_too_small_are_left_out(tmp_path):
    root = library(tmp_path, list(CANDIDATES[:5]))
    library(root, ["json"], modules=2)
    library(root, ["tkinter"])
    assert build(root).labels == tuple(sorted(CANDIDATES[:5]))


def test_at_most_ten_packages_are_taken(tmp_path):
    assert build(library(tmp_path, list(CANDIDATES))).labels == tuple(sorted(CANDIDATES[:10]))


def test_a_library_without_source_is_refused_by_name(tmp_path):
    library(tmp_path, ["asyncio", "email"])
    with pytest.raises(HybridOptError, match=f"at least 4 .*{re.escape(str(tmp_path))} has asyncio, email of"):
        build(tmp_path)


def test_the_floor_is_the_share_of_the_most_frequent_label():
    test = [snippet("a", "email"), snippet("b", "email"), snippet("c", "xml")]
    assert corpus.Corpus(("email", "xml"), [], test, 0).floor == 2 / 3


def test_hold_out_takes_between_a_fifth_and_two_fifths():
    snippets = [snippet(f"{m} {i}", module=f"email/{m}.py") for m in "abcdefgh" for i in range(5)]
    kept, held = hold_out(snippets, seed=3)
    assert sorted(kept + held, key=str) == sorted(snippets, key=str)
    assert 8 <= len(held) <= 16


def test_hold_out_takes_the_smallest_module_where_all_are_too_large():
    snippets = [snippet(f"{m}{i}", module=m) for m, size in (("a", 4), ("b", 3)) for i in range(size)]
    assert {s.module for s in hold_out(snippets, seed=0)[1]} == {"b"}


@pytest.mark.parametrize(
    "text",
    [
        "Return  the\nnumber of OPEN files",
        "other words before it\nself._something_quite_long = value_of_it(argument)",
        "and then one two three four five six seven eight follow",
    ],
)
def test_resembling_texts_are_dropped(text):
    test = [
        snippet("return the number of open files"),
        snippet("x = 1\nself._something_quite_long  =  value_of_it(argument)"),
        snippet("one two three four five six seven eight nine"),
    ]
    fresh = snippet("one two three four five six seven, and that is another text")
    assert without_resembling([snippet(text), fresh], test) == [fresh]


def test_masking_hides_names_in_any_form_and_drops_imports():
    text = """from email.mime import text
    import xml
    >>> import email.policy
    class EmailParser(email.parser.Parser):

        kind = 'application/XML'"""
    assert masked(text, ("email", "xml")) == "class pkgParser(pkg):\nkind = 'application/pkg'"


def test_a_module_gives_docstrings_and_code_apart(tmp_path):
    path = tmp_path / "email" / "mod.py"
    path.parent.mkdir()
    path.write_text(
        f'"""{"The module text. " * 6}"""\n\ndef f(a):\n    """{"What it does. " * 6}"""\n'
        + "".join(f"    name_{i} = compute_something({i})\n" for i in range(20))
        + "\ndef short(): pass\n"
    )
    found = module_snippets(tmp_path, path, ("email",))
    assert [s.kind for s in found] == ["docstring", "docstring", "source"]
    assert {(s.package, s.module) for s in found} == {("email", "email/mod.py")}
    assert "What it does" not in found[2].text
    assert len(found[2].text.splitlines()) == 12


def test_modules_of_test_folders_are_left_out(tmp_path):
    for name in ("a.py", "test/b.py", "sub/tests/c.py", "sub/test_d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in module_paths(tmp_path)] == ["a.py", "sub/test_d.py"]


@pytest.mark.parametrize("content", [b"def f(:\n", b"# coding: nonsense\n", b"x = '\xff'\n", b"x = '\0'\n"])
def test_unreadable_modules_give_nothing(tmp_path, content):
    (tmp_path / "email").mkdir()
    (tmp_path / "email" / "a.py").write_bytes(content)
    assert module_snippets(tmp_path, tmp_path / "email" / "a.py", ("email",)) == []
