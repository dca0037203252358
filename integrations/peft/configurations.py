"""adapter_config.json, checked before PEFT sees it.

PEFT hands strings of this file to `re`, where a stranger's pattern can go on for ever, and others to an import.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from hybridopt.core.contracts import Scheme
from hybridopt.core.errors import HybridOptError, check_choice, check_count, shown
from hybridopt.core.files import plain_json, tensors
from hybridopt.model.quantization.owners import is_frozen
from hybridopt.model.roles import base_name
from hybridopt.saving.completeness import stood_for
from hybridopt.saving.names import DELTA

from . import patterns, starts
from .dry_run import check_init
from .loaded import saved_config
from .saved import CONFIG, folder_of, saved_shapes

__all__ = ["checked", "prepare"]

LARGEST = 2**32  # of any number
MOST_LAYERS = 4096  # that layer_replication may make
LEAST_RANK = 1024  # allowed, whatever the sizes of the saved tensors are
BASE = "base_model.model."
NUMBERED = r"pissa_niter_\d{1,3}"  # PEFT's annotation spells it otherwise


def prepare(base: nn.Module, folder: Path, adapters: Sequence[str], scheme: Scheme | None = None) -> None:
    """Check every configuration in a temporary folder, and put one in its place that PEFT can be given.

    Patterns that may be matched for ever are replaced by the names of the adapter's own tensors.

    Args:
        base: the model that the adapters are for.
        folder: what `save` has written, or links to it; changed.
        adapters: names of all adapters in it.
        scheme: by which the model is about to be quantized.

    Raises:
        HybridOptError: for everything that PEFT would not have written, or would not load again.
    """
    rows = max((m.num_embeddings for m in base.modules() if isinstance(m, nn.Embedding)), default=0)
    delta = stood_for(tensors.names(folder / DELTA)) if (folder / DELTA).is_file() else set()
    is_quantized = scheme is not None or any(map(is_frozen, base.parameters()))
    for place in (folder / folder_of(name) for name in adapters):
        path = place / CONFIG
        data = plain_json.read(path, "adapter configuration")
        shapes = saved_shapes(place)
        checked(data, str(path), max((side for shape in shapes.values() for side in shape), default=0))
        for index in _leaves(list(_tokens(data.get("trainable_token_indices")))):
            check_count(str(path), "trainable_token_indices", index, 0, rows - 1)
        _name_modules(data, shapes, str(path))
        path.unlink()
        plain_json.write(path, data)
        if starts.changes_base(saved_config(place)):  # it is not begun again
            _check_changed(data, shapes, delta, str(path))
        else:
            check_init(data.get("init_lora_weights", True), is_quantized or bool(data.get("target_parameters")))


def _check_changed(data: dict[str, Any], shapes: Mapping[str, object], delta: set[str], where: str) -> None:
    """Raise HybridOptError for adapters that begin by changing their layers, of which no changed one was saved."""
    weights = {f"{base_name(module)}.weight" for module in _modules(data, shapes)}
    if not weights & delta:
        start = shown(data.get("init_lora_weights", data.get("init_weights")))
        raise HybridOptError(
            f"{where}: init_lora_weights={start} begins by changing the weights of the layers, and the folder has no "
            "changed weight of any; the file was edited, or copied from another folder: save the model again"
        )


def _modules(data: dict[str, Any], shapes: Mapping[str, object]) -> list[str]:
    """Return the names of the modules that an adapter has tensors for."""
    prefix = _prefix(data["peft_type"])
    return sorted({key.removeprefix(BASE).partition(f".{prefix}")[0] for key in shapes if f".{prefix}" in key})


def _name_modules(data: dict[str, Any], shapes: Mapping[str, object], where: str) -> None:
    """Let the modules that an adapter is put on be those that it has tensors for, where a pattern says which."""
    if all(patterns.simple(text) for key in patterns.CHOSEN for text in _texts(data.get(key))):
        return
    if data.get("target_parameters"):
        raise HybridOptError(f"{where}: {patterns.REFUSED}, and target_parameters are given beside it")
    data |= {"target_modules": _modules(data, shapes), "exclude_modules": None}
    data |= {key: None for key in ("layers_pattern", "layers_to_transform") if key in data}


def checked(data: dict[str, Any], where: str, largest: int) -> Any:
    """Return the class of a configuration of plain data; HybridOptError for wrong types, numbers, names and patterns.

    Args:
        data: what the file holds; what PEFT leaves out, too, is removed.
        where: the file, for errors.
        largest: side of a tensor of the adapter; no rank is larger.
    """
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CLASSES

    known = {str(getattr(kind, "value", kind)): cls for kind, cls in CLASSES.items()}
    check_choice(where, "peft_type", plain_json.take(data, "peft_type", str, where), known)
    cls, common = known[data["peft_type"]], {field.name for field in fields(PeftConfig)}
    data.pop("runtime_config", None)  # as PEFT does
    for key, hint in get_type_hints(cls).items():
        numbered = key == "init_lora_weights" and re.fullmatch(NUMBERED, str(data.get(key)))
        if data.get(key) is not None and not numbered and not _fits(data[key], hint):
            raise HybridOptError(f"{where}: {key}={shown(data[key])} is not allowed; PEFT has {_named(hint)} there")
    for key, value in data.items():
        _check_numbers(value, f"{where}: {key}")
        if key not in (*common, *patterns.CHOSEN):
            _check_texts(value, f"{where}: {key}")
    _check_known(data, where, largest)
    return cls


def _check_known(data: dict[str, Any], where: str, largest: int) -> None:
    """Check what is special to keys of some methods."""
    if data.get("megatron_config") is not None or data.get("megatron_core") not in (None, "megatron.core"):
        raise HybridOptError(f"{where}: megatron_config names modules to import, which no file may do here")
    ranks = [data.get("r"), *(data.get("rank_pattern") or {}).values()]
    for rank in (rank for rank in ranks if rank is not None and not isinstance(rank, list)):  # AdaLoRA has lists
        check_count(where, "r", rank, 0, max(largest, LEAST_RANK))
    for alpha in (data.get("alpha_pattern") or {}).values():
        if type(alpha) not in (int, float):
            raise HybridOptError(f"{where}: alpha_pattern has {shown(alpha)}, which is no number")
    spans = data.get("layer_replication") or []
    for start, stop in spans:
        check_count(where, "layer_replication", start, 0, MOST_LAYERS)
        check_count(where, "layer_replication", stop, start + 1, MOST_LAYERS)
    check_count(where, "layers of layer_replication", sum(stop - start for start, stop in spans), 0, MOST_LAYERS)


def _tokens(given: Any) -> Iterator[Any]:
    """Return the rows of embeddings that are trained, by the name of an embedding or of the only one."""
    return iter(given.values() if isinstance(given, dict) else given or ())


def _check_numbers(value: Any, where: str) -> None:
    for number in _leaves(value):
        if type(number) in (int, float) and abs(number) > LARGEST:
            raise HybridOptError(f"{where}={shown(value)} has a number beyond {LARGEST}")


def _check_texts(value: Any, where: str) -> None:
    for text in _texts(value):
        if not patterns.simple(text):
            raise HybridOptError(f"{where} has {shown(text)}: {patterns.REFUSED}")


def _texts(value: Any) -> Iterator[str]:
    return (leaf for leaf in _leaves(value) if isinstance(leaf, str))


def _leaves(value: Any) -> Iterator[Any]:
    """Yield all that is in a nest of lists and objects, keys too."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value of JSON may be of an annotated type; a number where one of the two kinds is expected."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin is tuple and Ellipsis not in inner:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin in (list, set, tuple):
        return isinstance(value, list) and all(any(_fits(item, each) for each in inner) for item in value)
    if origin is dict or hint is dict or is_dataclass(hint):
        return isinstance(value, dict)
    if hint in (int, float):
        return type(value) in (int, float)
    return (
        value is None if hint is NoneType else type(value) is hint if hint in (bool, str) else isinstance(value, str)
    )


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _prefix(peft_type: str) -> str:
    """Return what the names of a method's tensors begin with, such as "lora_"."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING as PREFIXES

    return next(str(prefix) for kind, prefix in PREFIXES.items() if str(getattr(kind, "value", kind)) == peft_type)
