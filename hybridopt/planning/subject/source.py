"""Where the dimensions of a planned model come from: a known name, the hub, a config.json or its folder."""

from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError
from ...core.files import plain_json
from ...core.files.model_folders import cure_of
from ...core.files.paths import path_of
from .architectures import architecture, canonical
from .building import usual_head
from .dimensions import Subject
from .hub import hub_config, is_hub_name
from .settings import check_settings

__all__ = ["SHIPPED", "subject_of"]

SHIPPED = "the table of configurations that hybridopt ships"
PART = "text_config"  # of models that read more than text


def subject_of(model: Any) -> Subject:
    """Return the subject for a known name, one of the hub, a config.json, its folder, or transformers' configuration.

    A name of the hub is looked for in its cache, then on the hub, and last in the table that is shipped.

    Of a file's model of images and text the text part is taken, and its name says so.

    Raises:
        HybridOptError: for unknown names, with the closest ones, for files that are no configuration, for
            configurations with parts, and for settings of which no model can be made.
    """
    if isinstance(model, Subject):
        return model
    found = _subject(model)
    check_settings(found.name, found.settings)
    return found


def _subject(model: Any) -> Subject:
    if hasattr(model, "to_dict") and hasattr(model, "model_type"):
        if getattr(model, PART, None) is not None:
            raise HybridOptError(
                f"model={model.model_type!r}: only the text part of such a model can be planned, which takes less "
                "than the whole; give config.get_text_config() for it"
            )
        return Subject(getattr(model, "name_or_path", "") or model.model_type, model.to_dict())
    if not isinstance(model, str | Path):
        raise HybridOptError(f"model={model!r} is not allowed; give a name, a path, or transformers' configuration")
    path = path_of(model, "model", "a model's folder, or its name")
    if path.is_dir() and (path / "config.json").exists():
        path = path / "config.json"
    if path.is_file():
        return _read_subject(str(model), path, f"{path}", str(path.parent))
    if path.is_dir() and canonical(str(model)) is None:
        raise HybridOptError(f"model={str(model)!r} is a folder without a config.json; {cure_of(path)}")
    if is_hub_name(str(model)):
        return _on_hub(str(model))
    return _shipped(str(model))


def _shipped(name: str, place: str | None = None) -> Subject:
    return Subject(canonical(name) or name, architecture(name), SHIPPED, place)


def _on_hub(name: str) -> Subject:
    """Return the subject of a name of the hub; where that is not to be had, of the table that is shipped."""
    shipped = canonical(name) is not None
    try:
        path, source = hub_config(name, shipped)
        return _read_subject(name, path, source, name)
    except HybridOptError:
        if not shipped:
            raise
    return _shipped(name, name)


def _read_subject(name: str, path: Path, source: str, place: str) -> Subject:
    """Return the subject of a file; of a model without a head, which has no loss, that with its usual head.

    Args:
        name: as people call the model.
        path: of its config.json.
        source: where that comes from, for people.
        place: from which the model could be loaded.
    """
    settings = _read(path)
    head = usual_head(settings)
    if head is not None:
        return Subject(f"{name} (as {head})", settings | {"architectures": [head]}, source, place)
    return Subject(f"{name} (text part)" if settings.get(PART) else name, settings, source, place)


def _read(path):
    settings = plain_json.read(path, "model configuration")
    if not isinstance(settings.get("model_type"), str):
        raise HybridOptError(
            f"{path} is no model configuration: it has no 'model_type'; give the config.json that lies beside the "
            "weights of a transformers model"
        )
    return settings
