"""A saved folder on the Hugging Face hub, with a card that says what it is."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..core.errors import HybridOptError
from .folder import CARD, OWN, adapter_files, open_folder
from .inspection import inspect_saved
from .manifest import MANIFEST
from .manifest import read as read_manifest

__all__ = ["card", "push", "push_folder"]


def push(write: Callable[[Path], None], repo_id: str, text: str | None, **how: Any) -> str:
    """Save into a temporary folder, add a card, and upload it in one commit; return the commit's address.

    Args:
        write: saves into the folder that it is given.
        repo_id: "user/name" on the hub; made if it is not there.
        text: the card; None: one that says what the folder holds, unless the repository has a card already.
        how: private, revision, commit_message, token: as `huggingface_hub.HfApi` takes them; None: left to it.

    Raises:
        HybridOptError: for a name that the hub does not allow, before anything is saved, and if the upload fails.
    """
    _check_name(repo_id)
    with TemporaryDirectory(prefix="hybridopt-") as place:
        folder = Path(place)
        write(folder)

        def add_card(api: Any, name: str) -> None:
            if text is not None or not api.file_exists(name, CARD, revision=how.get("revision")):
                (folder / CARD).write_text(card(folder, name) if text is None else text, encoding="utf-8")

        return _upload(folder, repo_id, add_card, how)


def push_folder(folder: Path, repo_id: str, more: Sequence[str] = (), **how: Any) -> str:
    """Upload a saved folder that lies there, with its card, in one commit; return the commit's address.

    Args:
        folder: whose saved files are uploaded, after they were verified; nothing else in it is.
        repo_id: "user/name" on the hub; made if it is not there.
        more: names of further files that are uploaded, too, if they are there.
        how: as of `push`.

    Raises:
        HybridOptError: for a name that the hub does not allow, a folder that is not whole, and if the upload fails.
    """
    _check_name(repo_id)
    with open_folder(folder) as saved:
        if any(path != folder / name for name, path in saved.files.items()):
            raise HybridOptError(f"the last save into {folder} was interrupted; save again, then upload")
        found = (*saved.names, MANIFEST, *(name for name in (CARD, *more) if (folder / name).is_file()))
        return _upload(folder, repo_id, lambda api, name: None, how, list(dict.fromkeys(found)))


def _check_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HybridOptError(f"repo_id={repo_id!r} is no name on the hub; give 'user/name' ({error})") from error


def _upload(
    folder: Path,
    repo_id: str,
    prepare: Callable[[Any, str], None],
    how: Mapping[str, Any],
    names: Sequence[str] | None = None,
) -> str:
    """Upload files of a folder, and take away those of an earlier upload, in one commit whatever their size.

    `HfApi.upload_folder` may make several of many files or many bytes: between them, or where it is interrupted, the
    repository would hold a part of a model.

    Args:
        folder: with the files.
        repo_id: of the repository.
        prepare: is called with the hub's interface and the full name of the repository, once it is there.
        how: as of `push`.
        names: of the files, relative to the folder; None: all.
    """
    from huggingface_hub import HfApi

    api, revision = HfApi(token=how.get("token")), how.get("revision")
    try:
        name = api.create_repo(repo_id, private=how.get("private"), exist_ok=True).repo_id
        prepare(api, name)
        done = api.create_commit(
            repo_id=name,
            operations=_operations(api, name, revision, folder, _files(folder) if names is None else names),
            commit_message=how.get("commit_message") or "Upload what hybridopt has trained",
            revision=revision,
        )
    except Exception as error:  # of the hub and of the network
        raise HybridOptError(
            f"{repo_id} could not be uploaded: {type(error).__name__}: {str(error)[:300]}; log in with "
            "huggingface_hub.login() or give token=..., or save_pretrained(folder) and upload that later"
        ) from error
    return str(done.commit_url)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _operations(api: Any, name: str, revision: str | None, folder: Path, names: Sequence[str]) -> list[Any]:
    """Return the parts of a commit: files of earlier uploads that are not written again go, those of `names` come."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils import filter_repo_objects

    there = api.list_repo_files(name, revision=revision)
    old = filter_repo_objects(there, allow_patterns=_of_earlier_uploads(api, name, revision))
    gone = [CommitOperationDelete(each, is_folder=False) for each in old if each not in names]
    return [*gone, *(CommitOperationAdd(each, folder / each) for each in names)]


def _of_earlier_uploads(api: Any, name: str, revision: str | None) -> list[str]:
    """Return patterns of the files of saved versions: of any, and those that the manifest there lists.

    Weights that others have put there are in no manifest, and stay.
    """
    files = adapter_files()
    found = [*OWN, *files, *(f"*/{file}" for file in files)]
    if not api.file_exists(name, MANIFEST, revision=revision):
        return found
    with suppress(HybridOptError):  # of a manifest that was not written here
        listed = read_manifest(Path(api.hf_hub_download(name, MANIFEST, revision=revision)))
        found += [escape(each) for each in listed if each != CARD]
    return found


def card(folder: Path, name: str) -> str:
    """Return a model card for a saved folder: metadata that the hub reads, what it holds, how it is loaded.

    Args:
        folder: what `model.hybrid.save_pretrained` wrote.
        name: of the repository.
    """
    found = inspect_saved(folder)
    base, adapters = found["base"], found["adapters"]
    known = base["name"] if _on_hub(base["name"]) else None
    whole = "model" in found
    library = "transformers" if whole else "peft" if adapters else "hybridopt"
    head = [f"library_name: {library}", *([f"base_model: {known}"] if known else [])]
    kept = [
        f"- adapter `{each['name']}`: {each.get('peft_type')}, {each['parameters']:,} parameters" for each in adapters
    ]
    kept += [f"- {found['delta']['tensors']:,} changed tensors of the base"] if found["delta"]["tensors"] else []
    kept += [f"- a run of {found['replay']['steps']:,} steps, kept as scalars"] if found["replay"] else []
    if whole:
        kept = [f"- {found['holds']}: `{found['model']['architecture']}`, {found['model']['parameters']:,} parameters"]
    lines = [
        "---",
        *head,
        "tags: [hybridopt]",
        "---",
        f"# {name.rpartition('/')[2]}",
        "",
        f"Trained with hybridopt {found['hybridopt']}, policy "
        f"`{found['policy']['name']}`, on {f'`{known}`' if known else 'a base model'} in {base['dtype']}"
        + (f", quantized with {base['quantization']}" if base["quantization"] else "")
        + ". It holds:",
        "",
        *(kept or ["- nothing that differs from the base"]),
        "",
        *(_of_whole(found, name) if whole else _of_changes(name)),
        "",
    ]
    return "\n".join(lines)


def _of_changes(name: str) -> list[str]:
    return [
        "```python",
        "import hybridopt",
        "from huggingface_hub import snapshot_download",
        "",
        f'model = hybridopt.from_pretrained(base_model, snapshot_download("{name}"))',
        "```",
    ]


def _of_whole(found: Mapping[str, Any], name: str) -> list[str]:
    kind = found["model"]["architecture"]
    return ["```python", f"from transformers import {kind}", "", f'model = {kind}.from_pretrained("{name}")', "```"]


def _on_hub(name: str | None) -> bool:
    """Return whether a base model has a name of the hub, and not that of a folder here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name is not None and not Path(name).exists()
