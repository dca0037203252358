"""Read a run from run.yaml, from the command line, or from both; every error says where it is."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError, nearest, shown
from ...core.files.paths import path_of
from .checks import check
from .keys import NULL, Branch, Key, every, root
from .nodes import LARGEST, Node, empty, parse, plain
from .other_names import REFUSED, elsewhere
from .run import AUTO, Run

__all__ = ["MADE_WITH", "OptionValue", "read_run", "resolved", "run_of"]

MADE_WITH = "made_with"  # what a resolved file was made with: no setting, so any value will do
FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class OptionValue:
    """What an option of its own on the command line says of a key.

    Args:
        key: that it is about, such as "output.folder".
        text: its value, taken as a text whatever it looks like.
        name: of the option, for errors, such as "--out".
    """

    key: str
    text: str
    name: str

    @property
    def place(self) -> str:
        """Return the option as it was typed, for errors."""
        return _typed(f"{self.name} {self.text}")


def read_run(source: str | Path, sets: Sequence[str | OptionValue] = ()) -> Run:
    """Return the run that a file describes.

    Args:
        source: the file, a Path or a text of one line that ends in .yaml or .yml; any other text is YAML itself.
        sets: texts key=value, such as "train.lr=2e-4"; each replaces what the file, or one before it, says of the key.
            Values are read as YAML. An OptionValue does the same for an option of its own.

    Raises:
        HybridOptError: it cannot be read, or a key or a value is not allowed, with the line.
    """
    return _run(_tree(source), sets)


def run_of(model: str, data: Sequence[str], sets: Sequence[str | OptionValue] = ()) -> Run:
    """Return the run of a model and its data, with all else as it is by default.

    Args:
        model: a folder, or an id on the hub.
        data: files, folders or hub ids; none where `sets` say so.
        sets: as `read_run` takes them.

    Raises:
        HybridOptError: a key or a value is not allowed.
    """
    given = {"model": Node(str(model), "MODEL", True)}
    if data:
        files = Node([Node(str(each), "DATA", True) for each in data], "DATA")
        given["data"] = Node({"train": files}, "DATA")
    return _run(Node(given, "the command line"), sets)


def resolved(source: str | Path) -> tuple[Run, Mapping[str, Any]]:
    """Return the run that a resolved file describes, and what it was made with, as `to_yaml` was told in `notes`.

    The latter is {} where the file says nothing of it.

    source: as `read_run` takes it.
    """
    tree = _tree(source)
    return _run(tree, ()), _notes(tree)


def _notes(tree: Node) -> Mapping[str, Any]:
    found = plain(tree.value[MADE_WITH]) if isinstance(tree.value, dict) and MADE_WITH in tree.value else None
    return found if isinstance(found, dict) else {}


def _tree(source: str | Path) -> Node:
    if isinstance(source, Path) or (source.strip().endswith(FILES) and "\n" not in source.strip()):
        path = path_of(source, "run", "a run.yaml")
        return parse(_text(path), lambda line: f"{path}:{line}")
    return parse(source, lambda line: f"line {line}")


def _text(path: Path) -> str:
    """Return the text of a file; no more of it than could be settings."""
    if path.is_dir():
        raise HybridOptError(f"{path} is a folder; give the run.yaml in it, {path / 'run.yaml'}")
    if not path.is_file():
        raise HybridOptError(
            f"{path} is not there; give the path of a run.yaml, or make one: hybridopt init MODEL DATA > {path.name}"
        )
    try:
        with open(path, "rb") as file:
            return file.read(4 * LARGEST + 1).decode("utf-8-sig")  # a character is four bytes at most
    except UnicodeDecodeError as error:
        raise HybridOptError(f"{path} is no text in UTF-8 (byte {error.start}: {error.reason})") from error
    except OSError as error:
        raise HybridOptError(f"{path} cannot be read: {error.strerror}") from error


def _run(tree: Node, sets: Sequence[str | OptionValue]) -> Run:
    for each in sets:
        tree = _with(root(), tree, each)
    if isinstance(tree.value, dict):
        tree = Node({key: child for key, child in tree.value.items() if key != MADE_WITH}, tree.place)
    run: Run = _section(root(), tree)
    check(run, tree)
    return run


# ---- --set


def _with(section: Branch, tree: Node, text: str | OptionValue) -> Node:
    """Return a tree with what a text key=value, or an option of its own, says."""
    if isinstance(text, OptionValue):
        return _put(section, tree, text.key.split("."), Node(text.text, text.place, True), text.place)
    key, equals, value = text.partition("=")
    place = _typed(f"--set {text}")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise HybridOptError(f"{place} is not allowed; write key=value, such as --set train.lr=2e-4")
    return _put(section, tree, path, parse(value, lambda line: place), place)


def _typed(option: str) -> str:
    """Return an option of the command line for errors, where it is not too long."""
    return option if len(option) < 86 else f"{option[:83]}..."


def _put(section: Branch | None, node: Node, path: list[str], value: Node, place: str) -> Node:
    """Return a node with a value somewhere beneath it; sections that are given in short are written out."""
    if not path:
        return value
    children = _children(section, node) if section else dict(node.value) if isinstance(node.value, dict) else {}
    name, *rest = path
    beneath = section.members.get(name) if section else None
    below = beneath if isinstance(beneath, Branch) else None
    children[name] = _put(below, children.get(name, Node({}, place)), rest, value, place)
    return Node(children, node.place)


def _children(section: Branch, node: Node) -> dict[str, Node]:
    """Return what stands beneath a section; of a value alone that it is the value of the section's chief key."""
    if isinstance(node.value, dict):
        return dict(node.value)
    alone = plain(node)
    if empty(node) or (section.optional and (alone is None or isinstance(alone, bool))):
        return {}
    if section.short is not None and alone is not None:
        return {section.short: node}
    given = f"{section.name}={shown(plain(node))}" if section.name else f"{shown(plain(node))} alone"
    names = ", ".join(section.members)
    raise HybridOptError(f"{node.place}: {given} is not allowed; give a mapping of keys: {names}")


# ---- values


def _section(section: Branch, node: Node) -> Any:
    alone = plain(node)
    if section.optional and (alone is None or alone is False):  # 0 is a value, which the chief key may refuse
        return None
    children = _children(section, node)
    for name, child in children.items():
        if name not in section.members:
            raise _unknown(section, name, child)
    words = (NULL,) if section.optional and not isinstance(node.value, dict) else ()
    found = {name: _value(section.members[name], child, words) for name, child in children.items()}
    for name, member in section.members.items():
        if name not in found and member.default is MISSING:
            raise HybridOptError(f"{node.place}: {member.name} is missing: {member.meaning}")
    return section.cls(**found)


def _value(member: Key | Branch, node: Node, instead: Sequence[str] = ()) -> Any:
    """Return the value of a key or a section.

    Args:
        member: the key or section.
        node: what was given for it.
        instead: words that the section around it takes in its place.
    """
    if isinstance(member, Branch):
        return _section(member, node)
    if NULL in member.words and plain(node) is None:
        return None
    if AUTO in member.words and node.value == AUTO:
        return AUTO
    try:
        return member.kind.read(member.name, node)
    except HybridOptError as error:
        words = [*member.words, *instead]
        besides = f"; or {' or '.join(words)}" if words else ""
        raise HybridOptError(f"{node.place}: {error}{besides}") from None


def _unknown(section: Branch, name: str, node: Node) -> HybridOptError:
    """Return the error for a key that is not known, with the one that was meant."""
    key = f"{section.name}.{name}" if section.name else name
    if name in REFUSED:
        return HybridOptError(f"{node.place}: {key} is not known: {REFUSED[name]}")
    meant = _meant(section, name)
    near = f"did you mean {meant}? " if meant else ""
    names = ", ".join(member.name for member in section.members.values())
    return HybridOptError(f"{node.place}: {shown(key)[1:-1]} is not known; {near}Known: {names}")


def _meant(section: Branch, name: str) -> str | None:
    """Return the whole name of the key that was probably meant; None where nobody can tell."""
    same = [member.name for member in every() if member.name.rpartition(".")[2] == name]
    near = nearest(name, section.members)
    if same:
        return same[0]
    if found := elsewhere(name):
        return found
    return section.members[near].name if near else None
