"""The name of a base model by which others can load it."""

from pathlib import Path

__all__ = ["base_name_of", "hub_name"]


def base_name_of(given: str) -> str:
    """Return what adapter_config.json calls a base model: its name on the hub, or the absolute path of its folder.

    Args:
        given: an id on the hub, or a folder; one in the Hugging Face cache is known by its id.
    """
    path = Path(given)
    if not path.exists():
        return given
    place = path.absolute()
    if place.parent.name == "snapshots" and (name := place.parent.parent.name).startswith("models--"):
        return name.removeprefix("models--").replace("--", "/", 1)
    return str(place)


def hub_name(given: str | None) -> str | None:
    """Return the name of a base model on the hub; None for a folder of this machine, and where it is not known."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not given:
        return None
    name = base_name_of(given)
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return None if Path(name).exists() else name
