"""The base model that a saved folder was trained on: where it lies, and its modules without memory."""

import copy
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.contracts import Adapters
from ...core.errors import HybridOptError
from ...core.files import plain_json
from ...core.files.model_folders import CONFIG
from ...model.base_record import restructured
from ...model.embeddings import embedding_names, row_count
from ...model.loading.building import build, check_folder, read_model_config
from ..folder import Folder

__all__ = ["adapter_config", "base_folder", "first_adapter", "resize_", "skeleton"]

TASKS = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
}


def base_folder(directory: Path, given: Path | None, adapter: dict[str, Any]) -> Path:
    """Return the folder of the base model: the one that is given, or else the one that the adapter names.

    Args:
        directory: the saved folder, for errors.
        given: what the user has said; None: nothing.
        adapter: what adapter_config.json holds; empty where there is none.

    Raises:
        HybridOptError: if it is not on this machine.
    """
    if given is not None:
        return check_folder(given)
    name = adapter.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise HybridOptError(f"{directory} does not say which base model it was trained on; give --base MODEL_FOLDER")
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    if found := _cached(name, adapter.get("revision")):
        return found
    raise HybridOptError(
        f"{directory} was trained on {name!r}, which is neither a folder here nor in the Hugging Face cache; give "
        f"--base MODEL_FOLDER, such as what huggingface_hub.snapshot_download({name!r}) returns"
    )


def skeleton(
    folder: Path, dtype: torch.dtype, record: dict, adapter: dict[str, Any], held: Collection[str]
) -> tuple[Any, bool]:
    """Return the model on the meta device that was trained, and whether its output layer is another than the base's.

    It is of the base's class, or of that which the adapter names.

    Args:
        folder: of the base.
        dtype: of the floats.
        record: the tensors that the model had.
        adapter: what adapter_config.json holds; empty where there is none.
        held: names of tensors whose values are in the saved folder.

    Raises:
        HybridOptError: if no such model has the tensors of the record.
    """
    config, first = read_model_config(folder), ""
    for name in (None, *_classes(config, adapter)):
        own = copy.deepcopy(config)
        own.architectures = [name] if name else own.architectures
        model = build(own, folder, dtype, torch.float32)
        why = _fit_(model, record)
        for count in _label_counts(model, record, held) if why and name else ():
            own = copy.deepcopy(own)
            own.num_labels = count
            model = build(own, folder, dtype, torch.float32)
            why = why and _fit_(model, record)
        if why is None:
            return model, name is not None
        first = first or f"{type(model).__name__}: {why}"
    raise HybridOptError(
        f"{folder} is not the base model this was trained on: {first}; give the folder of the base, saved as the "
        "class that was trained (model.save_pretrained before hybridopt.wrap)"
    )


def resize_(model: Any, record: dict) -> None:
    """Give the embeddings of a model without memory as many rows as a record has."""
    rows = row_count(model)
    for name in sorted(embedding_names(model) & record.keys()):
        shape = model.get_parameter(name).shape
        had = record[name][0] // math.prod(shape[1:])
        if len(shape) == 2 and had != rows and had * shape[1] == record[name][0]:
            model.resize_token_embeddings(had, mean_resizing=False)
            return


def _fit_(model: nn.Module, record: dict) -> str | None:
    """Return why a model has other tensors than a record, which may have more or fewer tokens; None if it has not."""
    embeddings = embedding_names(model)
    return restructured(model, record, embeddings if embeddings <= record.keys() else ())


def _classes(config: Any, adapter: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the classes that were trained, as far as the adapter tells."""
    import transformers

    mapping = adapter.get("auto_mapping")
    named = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if isinstance(named, str):
        yield named
    table = TASKS.get(str(adapter.get("task_type")))
    kind = None if table is None else vars(transformers.models.auto.modeling_auto)[table].get(type(config), None)
    if kind is not None:
        yield kind.__name__


def _label_counts(model: nn.Module, record: dict, held: Collection[str]) -> list[int]:
    """Return how many labels the output layer may have had, by the sizes of the matrices that were saved."""
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and n in record and n in held}
    return sorted({record[n][0] // p.shape[1] for n, p in matrices.items() if record[n][0] != p.numel()})


def _cached(name: str, revision: object) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision if isinstance(revision, str) else None)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def first_adapter(saved: Folder, library: Adapters, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the first adapter in a saved folder; empty without adapters.

    Args:
        saved: the folder.
        library: whose adapters they are.
        config: hybridopt's configuration in it.
    """
    if not config["adapters"]:
        return {}
    return adapter_config(saved.path(str(library.folder(config["adapters"][0]) / library.files[1])))


def adapter_config(path: Path | None) -> dict[str, Any]:
    """Return what an adapter_config.json holds; empty without one."""
    return {} if path is None else plain_json.read(path, "adapter configuration")
