"""The result of a training run, saved in one step: model or adapters, tokenizer, template and model card."""

import json
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import HybridOptError
from ...core.files.paths import path_of
from ...core.registry import every
from ...model.adapters import bare, library_of
from ...model.containers import uncompiled
from ...saving.folder import CARD
from ...saving.hub import push_folder
from ...saving.save import save as save_changes
from ...saving.save import save_whole
from .base_name import base_name_of
from .card import MARK, card_text, check_card
from .loading import held_in

__all__ = ["RECORDS", "push", "save"]

RECORDS = ("run.yaml", "plan.json", "log.jsonl", "report.html")  # of a run, beside its result


def save(
    model: nn.Module,
    folder: str | PathLike,
    tokenizer: Any,
    card: Mapping[str, Any],
    full: bool | None = None,
    max_shard_size: str | int = "5GB",
) -> Path:
    """Save what was trained so that others load the folder as it is, and return the folder.

    Adapters are saved as PEFT reads them, with the name of their base; a model without adapters as a complete Hugging
    Face model folder. Killed at any moment, the result of an earlier run or the new one is there. All files in the
    folder that are not of an earlier result stay: run.yaml, checkpoints, and a README.md that somebody has written.

    Args:
        model: that `wrap` has returned, trained.
        folder: is made if it is not there.
        tokenizer: is saved beside the model, with its chat template; None: there is none.
        card: for README.md, each of it if it is known: `name`, `base_model` (an id on the hub, or a folder),
            `revision`, `task`, `datasets` (ids on the hub), `data` (of each file `path`, `rows` and `sha256`), and by
            name what is told in `method` (`policy`, `lora`, `quantization` ...), `train`, `results` (such as losses),
            `memory` (names that end in "bytes" are sizes; `device`) and `versions`.
        full: save a whole model; None: if there are no adapters.
        max_shard_size: bytes of a file of weights at most, of a whole model.

    Raises:
        HybridOptError: the earlier result still loads.
    """
    folder = path_of(folder, "folder")
    check_card(card)
    strategy = getattr(model, "hybrid", None)
    if strategy is None:
        raise HybridOptError(
            f"{type(model).__name__} was not wrapped, or was unwrapped; give what hybridopt.wrap returns"
        )
    library = library_of(strategy.model)
    whole = full if full is not None else library is None or not library.names(strategy.model)
    base = card.get("base_model")
    base = None if base is None else base_name_of(str(base))

    def beside(place: Path) -> None:
        if base is not None:
            _name_base(place, base, card.get("revision"))
        _save_tokenizer(tokenizer, place)
        if _is_ours(folder / CARD):
            held = held_in(place, bare(strategy.model))
            (place / CARD).write_text(card_text({"name": folder.absolute().name} | dict(card), held), encoding="utf-8")

    with uncompiled(strategy.model):
        if whole:
            save_whole(strategy, folder, max_shard_size, base, beside)
        else:
            save_changes(strategy, folder, beside=beside)
    return folder


def push(folder: str | PathLike, repo_id: str, **how: Any) -> str:
    """Upload the result of a run to the Hugging Face hub in one commit, and return the commit's address.

    The model and what lies beside it are uploaded, with the run's configuration, plan, log and report; no checkpoints.

    Args:
        folder: that `save` has written to.
        repo_id: "user/name"; the repository is made if it is not there.
        how: private, revision, commit_message, token: as `model.hybrid.push_to_hub` takes them.
    """
    return push_folder(path_of(folder, "folder"), repo_id, RECORDS, **how)


def _name_base(place: Path, base: str, revision: Any) -> None:
    """Write into the configurations of adapters which model they belong to."""
    names = {library.files[1] for library in every("adapters")}
    for path in (path for path in place.rglob("*.json") if path.name in names):
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = base
        if revision is not None:
            settings["revision"] = str(revision)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def _save_tokenizer(tokenizer: Any, place: Path) -> None:
    if tokenizer is None:
        return
    try:
        tokenizer.save_pretrained(str(place))
    except Exception as error:  # transformers raises many types
        raise HybridOptError(
            f"{type(tokenizer).__name__} cannot be saved: {type(error).__name__}: {error!s:.300}"
        ) from error


def _is_ours(path: Path) -> bool:
    """Return whether there is no card yet, or one that was written here."""
    with suppress(OSError, UnicodeDecodeError):
        return MARK in path.read_text(encoding="utf-8")
    return not path.exists()
