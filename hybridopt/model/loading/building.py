"""Transformers models without memory, as the config.json of a folder describes them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.dtypes import dtype_name
from ...core.errors import HybridOptError, nearest
from ...core.files.model_folders import CONFIG, cure_of
from ...core.files.paths import path_of

__all__ = ["build", "check_folder", "kept_in_fp32", "read_model_config"]


def check_folder(path: object) -> Path:
    """Return the folder of a model; raise HybridOptError for what is none, saying how to come by one."""
    folder = path_of(path, "path", "the folder of a model")
    try:
        there, described = folder.exists(), (folder / CONFIG).is_file()
    except OSError as error:
        raise HybridOptError(f"path={str(path)!r} cannot be read: {error}") from error
    if not there:
        raise HybridOptError(
            f"path={str(path)!r}: there is no such folder. Nothing is downloaded here; of a model on the Hugging Face "
            f"hub take what huggingface_hub.snapshot_download({str(path)!r}) returns"
        )
    if not described:
        kind = f"has no {CONFIG}" if folder.is_dir() else "is no folder"
        raise HybridOptError(f"path={str(path)!r} {kind}; {cure_of(folder)}")
    return folder


def read_model_config(folder: Path):
    """Return the configuration of a model in full precision that transformers knows; no code in the folder is run."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types
        raise HybridOptError(
            f"{folder / CONFIG} is no configuration of a model that transformers itself knows: {_in_short(error)}"
            f"{_near_type(folder)}"
        ) from error
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else type(quantized).__name__
        raise HybridOptError(
            f"{folder / CONFIG}: the weights are quantized already ({method}); load them with transformers' "
            "from_pretrained, or take the model in full precision"
        )
    return config


def build(config, folder: Path, dtype: torch.dtype | str | None, otherwise: torch.dtype) -> nn.Module:
    """Return the model on the meta device, of the class that the config names, in evaluation mode.

    Args:
        config: of transformers; a causal language model where it names no class.
        folder: where it was read, for errors.
        dtype: of all floats; None takes that of the config.
        otherwise: the dtype where the config names none.
    """
    from transformers import AutoModelForCausalLM

    dtype = _dtype(dtype if dtype is not None else (getattr(config, "dtype", None) or otherwise))
    kind = _architecture(config, folder)
    try:
        with torch.device("meta"):
            if kind is None:
                model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
            else:
                model = kind._from_config(config, dtype=dtype)
    except Exception as error:  # transformers raises many types
        raise HybridOptError(f"{folder / CONFIG}: transformers cannot build this model: {_in_short(error)}") from error
    model.config.name_or_path = str(folder)
    return model.eval()


def kept_in_fp32(model: Any) -> list[str]:
    """Return the parts of tensors' names that transformers keeps in float32 in a model of this dtype."""
    strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    loose = getattr(model, "_keep_in_fp32_modules", None) or ()
    half = {torch.float16: (*strict, *loose), torch.bfloat16: tuple(strict)}
    return sorted(half.get(model.config.dtype, ()))


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    return getattr(torch, dtype_name("load", "dtype", dtype))


def _architecture(config, folder: Path) -> Any:
    import transformers

    names = getattr(config, "architectures", None) or ()
    for name in names:
        kind = getattr(transformers, str(name), None)
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    if names:
        raise HybridOptError(
            f"{folder / CONFIG}: architectures={list(names)}, which transformers {transformers.__version__} has not; "
            "code that comes with a model is not run here. Load it with from_pretrained and wrap it"
        )
    return None


def _in_short(error: Exception) -> str:
    """Return an error in one line; what checks of several fields say stands on several."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _near_type(folder: Path) -> str:
    """Return which type of model was probably meant by one that transformers does not know."""
    from transformers import CONFIG_MAPPING

    try:
        given = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return ""
    if not isinstance(given, str) or given in CONFIG_MAPPING:
        return ""
    best = nearest(given, CONFIG_MAPPING)
    return f"; did you mean model_type={best!r}?" if best else ""
