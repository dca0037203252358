"""Known architectures by name; their dimensions lie in architectures.json, so that nothing is downloaded."""

import json
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from ...core.errors import HybridOptError
from .hub import is_hub_name

__all__ = ["Architecture", "architecture", "canonical", "check_name", "names"]

FILE = Path(__file__).with_name("architectures.json")
ALIASES = {
    "llama-3-405b": "llama-3.1-405b",
    "llama-3.3-70b": "llama-3.1-70b",
    "bert": "bert-base",
    "gpt2-small": "gpt2",
    "mixtral": "mixtral-8x7b",
    "mistral": "mistral-7b",
}
SUFFIXES = ("instruct", "chat", "hf", "it", "pt", "base", "uncased", "cased", "v0.1", "v0.2", "v0.3")
Architecture = dict[str, object]  # what transformers' configuration is made of, "model_type" among it


def names() -> tuple[str, ...]:
    """Return all names, in the order of the data file."""
    return tuple(_known())


def canonical(name: str) -> str | None:
    """Return the name in the data file that `name` stands for; None for an unknown one.

    Case, hyphens, an organisation ("meta-llama/") and endings such as "-Instruct" do not matter.
    """
    plain = {_plain(each): each for each in _known()} | {_plain(a): each for a, each in ALIASES.items()}
    text = name.rpartition("/")[2].lower().removeprefix("meta-").removeprefix("facebook-")
    while True:
        if _plain(text) in plain:
            return plain[_plain(text)]
        shorter = re.sub(rf"[-_]({'|'.join(map(re.escape, SUFFIXES))})$", "", text)
        if shorter == text:
            return None
        text = shorter


def architecture(name: str) -> Architecture:
    """Return the configuration of a known architecture; raise HybridOptError with the closest names for others."""
    found = canonical(name)
    if found is None:
        _check_path(name)
        near = get_close_matches(name.rpartition("/")[2].lower(), names(), 3, 0.5)
        hint = f"the closest are {', '.join(near)}" if near else f"known are {', '.join(names())}"
        raise HybridOptError(
            f"model={name!r} is no known architecture, and no config.json or folder lies there: {hint}; or give the "
            "path of the model's config.json"
        )
    return dict(_known()[found]["config"])


def check_name(name: str) -> None:
    """Raise HybridOptError, as `architecture` does, for a name that is none, no path, and none of a hub."""
    if canonical(name) is None and not is_hub_name(name) and not Path(name).exists():
        architecture(name)


def _check_path(name: str) -> None:
    """Raise HybridOptError for what can only be a path: nothing lies there."""
    path = Path(name)
    if len(path.parts) < 2 and path.suffix != ".json" and not name.startswith("."):
        return
    folder = path.parent
    if not folder.is_dir():
        raise HybridOptError(f"model={name!r}: there is no folder {folder.absolute()}; give a folder with config.json")
    near = get_close_matches(path.name, (each.name for each in folder.iterdir()), 1, 0.5)
    meant = f"did you mean {str(folder / near[0])!r}? Or give" if near else "give"
    raise HybridOptError(
        f"model={name!r}: there is no such file or folder; {meant} a config.json, a model's folder, or a name of the "
        "hub (org/name)"
    )


@cache
def _known() -> dict:
    return json.loads(FILE.read_text())


def _plain(name: str) -> str:
    """Return a name without case, hyphens and spaces; a point counts, as 0.5b is not 05b."""
    return re.sub(r"[-_\s]", "", name.lower())
