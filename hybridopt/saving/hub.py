"""A saved folder on the Hugging Face hub, with a card that says what it is."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..core.errors import HybridOptError
from .folder import CARD, OWN, adapter_files
from .inspection import inspect_saved

__all__ = ["card", "push"]


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
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HybridOptError(f"repo_id={repo_id!r} is no name on the hub; give 'user/name' ({error})") from error
    api = HfApi(token=how.get("token"))
    with TemporaryDirectory(prefix="hybridopt-") as place:
        folder = Path(place)
        write(folder)
        try:
            name = api.create_repo(repo_id, private=how.get("private"), exist_ok=True).repo_id
            if text is not None or not api.file_exists(name, CARD, revision=how.get("revision")):
                (folder / CARD).write_text(card(folder, name) if text is None else text, encoding="utf-8")
            message = how.get("commit_message") or "Upload what hybridopt has trained"
            done = api.upload_folder(
                repo_id=name,
                folder_path=str(folder),
                revision=how.get("revision"),
                commit_message=message,
                delete_patterns=_of_earlier_uploads(),
            )
        except Exception as error:  # of the hub and of the network
            raise HybridOptError(
                f"{repo_id} could not be uploaded: {type(error).__name__}: {str(error)[:300]}; log in with "
                "huggingface_hub.login() or give token=..., or save_pretrained(folder) and upload that later"
            ) from error
    return str(done.commit_url)


def _of_earlier_uploads() -> list[str]:
    """Return patterns of the files of saved versions; those of further adapters lie in folders."""
    files = adapter_files()
    return [*OWN, *files, *(f"*/{file}" for file in files)]


def card(folder: Path, name: str) -> str:
    """Return a model card for a saved folder: metadata that the hub reads, what it holds, how it is loaded.

    Args:
        folder: what `model.hybrid.save_pretrained` wrote.
        name: of the repository.
    """
    found = inspect_saved(folder)
    base, adapters = found["base"], found["adapters"]
    known = base["name"] if _on_hub(base["name"]) else None
    head = ["library_name: " + ("peft" if adapters else "hybridopt"), *([f"base_model: {known}"] if known else [])]
    kept = [
        f"- adapter `{each['name']}`: {each.get('peft_type')}, {each['parameters']:,} parameters" for each in adapters
    ]
    kept += [f"- {found['delta']['tensors']:,} changed tensors of the base"] if found["delta"]["tensors"] else []
    kept += [f"- a run of {found['replay']['steps']:,} steps, kept as scalars"] if found["replay"] else []
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
        "```python",
        "import hybridopt",
        "from huggingface_hub import snapshot_download",
        "",
        f'model = hybridopt.from_pretrained(base_model, snapshot_download("{name}"))',
        "```",
        "",
    ]
    return "\n".join(lines)


def _on_hub(name: str | None) -> bool:
    """Return whether a base model has a name of the hub, and not that of a folder here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name is not None and not Path(name).exists()
