"""The model that all runs begin with, made once and kept."""

import os
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from . import data
from .examples import WARM, tokenizer_of
from .model import Recipe, network
from .pretraining import make

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hybridopt-benchmarks"


def ready(folder: Path, recipe: Recipe, bar: Callable[[int], Callable[[], None]], cache: Path = CACHE) -> Path:
    """Return where the model of a recipe and a text lies; it is made first if it is not there yet.

    Args:
        folder: of the text.
        recipe: of the model.
        bar: is told how many steps that takes, and returns what is called after each.
        cache: folder of all such models.
    """
    place = cache / f"addax-{digest(folder, recipe)}"
    if not place.exists():
        reviews = data.reviews(folder, "train", 1)
        texts = list(data.plain(folder, reviews))
        tokenizer = tokenizer_of(texts, recipe.vocabulary)
        warm = data.reviews(folder, "train", recipe.fewest_words)[: recipe.warm_reviews]
        model = make(recipe, tokenizer, texts, warm, bar(recipe.steps + recipe.warm_steps))
        publish(place, model, tokenizer)
    return place


def digest(folder: Path, recipe: Recipe) -> str:
    """Return twelve hex digits that change with the recipe, the warm start's questions, and any byte of the text."""
    text = b"".join((folder / name).read_bytes() for name in (*data.PLAIN, f"sst2/{data.SST2['train']}"))
    return sha256(repr((asdict(recipe), WARM)).encode() + text).hexdigest()[:12]


def publish(place: Path, model: nn.Module, tokenizer) -> None:
    """Put weights and tokenizer at a place, whole or not at all.

    Args:
        place: the folder to be made.
        model: whose weights.
        tokenizer: of the model.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent) as draft:
        inside = Path(draft) / place.name
        inside.mkdir()
        save_file(dict(model.named_parameters()), inside / "model.safetensors")
        tokenizer.save(str(inside / "tokenizer.json"))
        if not place.exists():  # another process was faster otherwise, with the same bits
            inside.rename(place)


def load(place: Path, recipe: Recipe) -> nn.Module:
    """Return the model that lies at a place."""
    model = network(recipe)
    model.load_state_dict(load_file(place / "model.safetensors"), strict=False)
    return model


def load_tokenizer(place: Path) -> Tokenizer:
    """Return the tokenizer that lies at a place."""
    return Tokenizer.from_file(str(place / "tokenizer.json"))
