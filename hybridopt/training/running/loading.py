"""The model of a run: fetched, loaded as it will be trained, with adapters and strategy."""

from pathlib import Path
from typing import Any

import torch

from ...core.contracts import TrainingTask
from ...core.devices import device_here
from ...core.dtypes import DTYPES
from ...core.errors import HybridOptError
from ...model.fsdp.applying import shard_
from ...model.loading.building import check_folder, read_model_config
from ...model.loading.generation import read_generation
from ...model.loading.new_head import load_with_head
from ...model.loading.streaming import How, load
from ...planning.subject.hub import hub_config
from ...wrapping import wrap
from ..config.run import AUTO, Run
from ..method.adapters import adapters
from ..method.resting import placement_of
from .preparing.preflight import check_model

__all__ = ["config_of", "fetched", "load_model"]

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")  # never code, never pickles


def load_model(run: Run, folder: Path, task: TrainingTask, config: Any, shards: bool = False) -> Any:
    """Return the model as the run trains it: quantized while it is read, with new adapters, wrapped, sharded.

    Args:
        run: with its method resolved.
        folder: of the model.
        task: says which output layer it has.
        config: of the model with that output layer.
        shards: whether this process keeps its rows alone.
    """
    method, seed = run.method, run.train.seed
    device = "cpu" if shards and method.quantization is None else device_here()  # from where layers go to their GPUs
    how = How(method.quantization, _dtype(run), device, placement=placement_of(method.placement))
    causal = task.head == "causal"
    model = load(folder, **vars(how)) if causal else load_with_head(folder, config, how, seed)
    torch.manual_seed(seed)  # adapters begin with random numbers
    config = None if method.lora is None else adapters(method.lora, task.head)
    given = {"peft_config": config, "activations": method.activations, "seed": seed}
    model = wrap(model, method.policy, **given, **method.options)
    if shards:
        shard_(model)
    return model


def config_of(model: str) -> Any:
    """Return the configuration of a model: of a folder, or of the hub, from where nothing else is fetched.

    Raises:
        HybridOptError: there is no such model, or it is quantized already, or is not one of transformers' own.
    """
    check_model(model)
    folder = Path(model).expanduser()
    if folder.exists():
        read_generation(check_folder(folder))  # which loading does later
        return read_model_config(folder)
    try:
        return read_model_config(hub_config(model)[0].parent)
    except HybridOptError as error:
        if error.__cause__ is None:
            raise
        raise _not_there(model, error.__cause__) from error


def fetched(model: str) -> Path:
    """Return the folder of a model: as it is, or from the hub, of which only weights in safetensors are taken."""
    if (folder := Path(model).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except Exception as error:  # of the hub's library, of the one below it, and of the system
        raise _not_there(model, error) from error


def _not_there(model: str, error: BaseException) -> HybridOptError:
    why = " ".join(str(error).split())[:200]
    return HybridOptError(
        f"model={model!r} is no folder here, and cannot be had from the hub ({type(error).__name__}: {why}); see that "
        "the name is right and the network is there, log in where the model asks for it (hf auth login), or give a "
        "folder"
    )


def _dtype(run: Run) -> str | None:
    return None if run.train.dtype == AUTO else DTYPES[run.train.dtype]
