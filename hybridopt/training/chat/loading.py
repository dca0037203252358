"""A folder of adapters, of changes or of a whole model, loaded to answer."""

from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from torch import nn

from ...core.devices import device_here
from ...core.errors import HybridOptError
from ...core.files import plain_json
from ...core.files.model_folders import CONFIG as MODEL_CONFIG
from ...model.adapters import usual_library
from ...model.loading.building import read_model_config
from ...model.loading.streaming import load
from ...reloading import from_pretrained
from ...saving.configuration import read_config
from ...saving.folder import Folder, open_folder
from ...saving.held_adapters import library_in, together
from ...saving.inspection import is_saved
from ...saving.merging.base import adapter_config, base_folder, first_adapter
from ...saving.names import CONFIG, DELTA, REPLAY

__all__ = ["load_to_answer"]

TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM")


def load_to_answer(place: Path, base: Path | None, quantization: str | None) -> tuple[nn.Module, Any]:
    """Return the model in a folder, on the GPU if there is one, and its tokenizer.

    Adapters go onto their base, quantized as in training unless another scheme is asked for.

    Args:
        place: a model folder, one that hybridopt saved, or one of PEFT.
        base: the folder of the base model; None: the one that the adapter names.
        quantization: scheme of the weights; None: as in training, and of a whole model none.

    Raises:
        HybridOptError: for a folder that holds no model that writes text.
    """
    if not is_saved(place):
        return _plain(place, base, quantization)
    with open_folder(place) as saved, together(saved) as linked:
        config = read_config(saved.path(CONFIG))
        if config["whole"]:
            _check_whole(place, base)
            _check_writes(Path(linked))
            return load(linked, quantization=quantization, device=device_here()).eval(), _tokenizer(Path(linked))
        adapter = first_adapter(saved, library_in(saved, config), config)
        _check_task(adapter, place)
        folder = base_folder(place, base, adapter)
        _check_writes(folder)
        own = config["quantization"]
        if quantization in (None, own):
            model = _loaded(folder, own, config["dtype"], _skipped(config))
            answers = from_pretrained(model, place, is_trainable=False)
        else:
            _check_adapters_alone(saved, config, quantization)
            model = _loaded(folder, quantization, config["dtype"], adapter.get("modules_to_save") or ())
            state = {key: config[key] for key in ("adapters", "active", "injected")}
            answers = usual_library().load(model, linked, is_trainable=False, **state)
        return answers.to(device_here()).eval(), _tokenizer(Path(linked), folder)


def _plain(place: Path, base: Path | None, quantization: str | None) -> tuple[nn.Module, Any]:
    """Load a folder that hybridopt has not saved."""
    library = usual_library()
    if not (place / library.files[1]).is_file():
        _check_whole(place, base)
        _check_writes(place)
        return load(place, quantization=quantization, device=device_here()).eval(), _tokenizer(place)
    adapter = adapter_config(place / library.files[1])
    _check_task(adapter, place)
    folder = base_folder(place, base, adapter)
    _check_writes(folder)
    model = _loaded(folder, quantization, None, adapter.get("modules_to_save") or ())
    answers = library.load(model, place, ["default"], is_trainable=False, active=["default"], injected=False)
    return answers.to(device_here()).eval(), _tokenizer(place, folder)


def _loaded(folder: Path, quantization: str | None, dtype: str | None, skip: Collection[str]) -> nn.Module:
    return load(folder, quantization=quantization, dtype=dtype, device=device_here(), skip=sorted(skip))


def _skipped(config: Mapping[str, Any]) -> set[str]:
    """Return the modules that training left in floats, though their base was quantized."""
    floats = {name.rpartition(".")[0] for name, mark in config["base"].items() if "float" in mark[1]}
    codes = {name.rpartition(".")[0] for name, mark in config["base"].items() if "float" not in mark[1]}
    above = codes | {name.rpartition(".")[0] for name in config["quantized"]} | set(config["quantized"])
    return {name for name in floats if name and not any(f"{each}.".startswith(f"{name}.") for each in above)}


def _check_adapters_alone(saved: Folder, config: Mapping[str, Any], quantization: str) -> None:
    if {DELTA, REPLAY} & set(saved.names) or not config["adapters"]:
        raise HybridOptError(
            f"--quantization={quantization}: tensors of the base were changed in training, with the base in "
            f"{config['quantization'] or config['dtype']}; leave --quantization out, or make a whole model with "
            f"`hybridopt merge {quote(str(saved.directory))} -o MERGED` and talk to that"
        )


def _check_whole(place: Path, base: Path | None) -> None:
    if base is not None:
        raise HybridOptError(f"--base={base} is for adapters; {place} holds a whole model")


def _check_task(adapter: Mapping[str, Any], place: Path) -> None:
    if (task := adapter.get("task_type")) in TASKS:
        raise HybridOptError(f"{place} holds adapters for {task}, {_scores()}")


def _check_writes(folder: Path) -> None:
    """Raise HybridOptError for the folder of a model that gives no text."""
    if not (folder / MODEL_CONFIG).is_file():
        raise HybridOptError(
            f"{folder} holds neither a model ({MODEL_CONFIG}) nor adapters (adapter_config.json) nor what "
            "model.hybrid.save_pretrained writes"
        )
    names = plain_json.read(folder / MODEL_CONFIG, "configuration").get("architectures") or []
    odd = [str(n) for n in names if not str(n).endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))]
    if odd:
        raise HybridOptError(f"{folder} holds a {odd[0]}, {_scores()}")
    read_model_config(folder)


def _scores() -> str:
    return (
        "which gives scores or labels and no text; load it with the AutoModelFor... class of its task, or with "
        "transformers.pipeline"
    )


def _tokenizer(*places: Path) -> Any:
    """Return the tokenizer that lies in the first of some folders that has one."""
    from transformers import AutoTokenizer

    there = [
        place for place in places if (place / "tokenizer_config.json").is_file() or list(place.glob("tokenizer*"))
    ]
    if not there:
        raise HybridOptError(
            f"{places[-1]} has no tokenizer; save the base's beside the model: tokenizer.save_pretrained(folder)"
        )
    try:
        return AutoTokenizer.from_pretrained(str(there[0]), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types
        raise HybridOptError(f"the tokenizer in {there[0]} cannot be read: {error!s:.300}") from error
