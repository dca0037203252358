"""What is saved and how it comes back: adapters as PEFT reads them, changed base tensors, and the configuration."""

import re
import warnings
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from . import plain_json, replay_file, tensors
from .checksums import VERSION
from .errors import HybridOptError, HybridOptWarning
from .find import pack, unpack
from .fitting import (
    CONFIG,
    DELTA,
    base_dtype,
    base_tensors,
    check_bare,
    check_base,
    check_quantization,
    scaled_layers,
)
from .folder import open_folder, publish
from .policy import Policy, Ready, check_format, pack_routes, read_policy, unpack_routes
from .rebuilding import check_names, rebuilt
from .replay_file import REPLAY
from .roles import base_name
from .strategy import Strategy
from .wrapping import attach_strategy

__all__ = ["CONFIG", "DELTA", "from_pretrained", "read_config", "save"]

KEYS = (
    "format",
    "hybridopt",
    "policy",
    "seed",
    "quantization",
    "quantized",
    "adapters",
    "active",
    "unfrozen",
    "base",
    "dtype",
    "replayed",
    "checksums",
)


def save(strategy: Strategy, directory: str | Path, replay: bool = True) -> None:
    """Publish the folder in one step; see `Strategy.save_pretrained`."""
    from .integrations import peft

    model = strategy.model
    _check_directory(directory)
    strategy.check_structure()
    _check_savable(model, peft)

    def write(folder: Path) -> None:
        held = set()
        if peft.is_peft_model(model):
            peft.save_adapters(model, folder)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is for people to edit, so no file of ours
            held = peft.saved_tensor_names(model, folder)
        changed = {n: t for n, t in strategy.changed_tensors().items() if n not in held}
        run = strategy.recorded(changed) if replay else None
        replayed = {} if run is None else run.traces
        delta = {n: t for n, t in changed.items() if n not in replayed}
        if run is not None:
            replay_file.write(run, folder / REPLAY)
        if delta:
            tensors.save(delta, folder / DELTA, {"format": "pt"})
        plain_json.write(folder / CONFIG, _config(strategy, {*delta, *held}, replayed))

    publish(Path(directory), write)


def from_pretrained(
    model: nn.Module,
    directory: str | Path,
    policy: str | Ready | None = None,
    is_trainable: bool = True,
    **policy_options: Any,
) -> nn.Module:
    """Bring a saved folder onto its base model: quantize as before, add the adapters, write the changed tensors.

    Args:
        model: the same base model as before training, unwrapped; quantized the same way if it was given quantized.
        directory: what `save_pretrained` wrote; every file is verified against the manifest first.
        policy, policy_options: another policy to go on with; None takes the saved one.
        is_trainable: False loads the adapters for inference.

    Tensors that were saved as the scalars of a run are rebuilt first, by as many passes over them as it had steps.

    Returns the model as `wrap` does. Raises HybridOptError, before the model is changed, for a missing, damaged or
    foreign file and for another base model.
    """
    from .integrations import bitsandbytes, peft
    from .integrations.scales import open_scales

    _check_directory(directory)
    with open_folder(directory) as folder:
        config = read_config(folder.path(CONFIG))
        ready = _policy(policy, policy_options, config)
        delta = tensors.load(folder.path(DELTA), "changed base tensors") if DELTA in folder.names else {}
        run = replay_file.read(folder.path(REPLAY)) if REPLAY in folder.names else None
        _check_files(folder, config)
        check_names(run, config, delta)
        check_bare(model, config)
        names = check_quantization(model, config)
        base = check_base(model, config, delta)
        delta |= {} if run is None else rebuilt(run, base_tensors(model))
        with _together(folder) as adapters:
            if config["adapters"]:
                peft.check_saved(model, adapters, config["adapters"], config["active"])
            bitsandbytes.quantize_(model, config["quantization"], names)
            if config["adapters"]:
                model = peft.load_adapters(model, adapters, config["adapters"], is_trainable, config["active"])
    if scaled_layers(delta) or getattr(ready, "opens_scales", False):
        open_scales(model)
    _write(model, delta, config["unfrozen"] if is_trainable else ())
    quantization = config["quantization"] if config["quantized"] else None
    return attach_strategy(model, ready, config["seed"], base, quantization, config["quantized"])


def _check_directory(directory):
    if not isinstance(directory, str | PathLike) or not str(directory):
        raise HybridOptError(f"directory={directory!r} is not allowed; give the path of a folder")


def _check_savable(model, peft):
    merged = [n for n, m in model.named_modules() if getattr(m, "merged", False) is True]
    if merged:
        raise HybridOptError(
            f"the adapter of {merged[0]!r} is merged into its base; call model.unmerge_adapter() first"
        )
    if not peft.is_peft_model(model) and any(hasattr(m, "adapter_layer_names") for m in model.modules()):
        raise HybridOptError(
            "LoRA was added after wrap, and the wrapped model is only its base; call hybridopt.wrap(peft_model, ...) "
            "on the PeftModel and save that: nothing is lost"
        )


def _config(strategy, replaced, replayed):
    from .integrations import bitsandbytes, peft

    policy, model = strategy.policy, strategy.model
    free = {re.sub(r"\.modules_to_save\.[^.]+", "", base_name(n)) for n in replaced}
    free |= {n.rpartition(".")[0] for n in free}  # of a weight's codes: the weight
    return {
        "format": 1,
        "hybridopt": version("hybridopt"),
        "policy": {"routes": pack_routes(policy)} if isinstance(policy, Policy) else pack(policy),
        "seed": strategy.seed,
        "quantization": bitsandbytes.scheme_of(model),
        "quantized": list(strategy.quantized),
        "adapters": peft.adapter_names(model),
        "active": peft.active_adapters(model),
        "unfrozen": strategy.unfrozen(),
        "base": {n: [*mark[:2], None if n in free else mark[2]] for n, mark in strategy.base.items()},
        "dtype": base_dtype(model),
        "checksums": VERSION,
    } | ({"replayed": sorted(replayed)} if replayed else {})


def read_config(path: Path) -> dict:
    """The configuration of a saved folder, every key checked. Raises HybridOptError, naming the key, for a bad one."""
    config = plain_json.read(path, "configuration")
    check_format(plain_json.take(config, "format", int, CONFIG), CONFIG)
    plain_json.only(config, KEYS, CONFIG)
    lists = dict.fromkeys(("quantized", "adapters", "active", "unfrozen"), list)
    kinds = {"seed": int, "quantization": str | None, "base": dict, "dtype": str | None, "policy": dict} | lists
    taken = {key: plain_json.take(config, key, kind, CONFIG) for key, kind in kinds.items()}
    taken["replayed"] = plain_json.take(config, "replayed", list, CONFIG, [])
    for key in (*lists, "replayed"):
        if not all(isinstance(name, str) for name in taken[key]):
            raise HybridOptError(f"{CONFIG}: {key!r} must be an array of strings, not {taken[key]!r}")
    for name, mark in taken["base"].items():
        kinds = [type(v) for v in mark] if isinstance(mark, list) else []
        if kinds not in ([int, str, int], [int, str, type(None)]):
            raise HybridOptError(f"{CONFIG}: base: {name!r} must be [elements, dtype, checksum], not {mark!r}")
    return taken | {"base": _comparable(taken["base"], plain_json.take(config, "checksums", int, CONFIG, 1))}


def _comparable(base, version):
    """Without the checksums of older versions, which a few small changes could leave as they were."""
    if not 1 <= version <= VERSION:
        raise HybridOptError(f"{CONFIG}: checksums={version} is not known; this hybridopt reads 1 to {VERSION}")
    if version == VERSION:
        return base
    warnings.warn(
        f"{CONFIG} was written by an older hybridopt: that this is the base model is seen by names and shapes only; "
        "save again to keep its values, too",
        HybridOptWarning,
        stacklevel=4,
    )
    return {name: [*mark[:2], None] for name, mark in base.items()}


def _policy(policy, options, config) -> Ready:
    if policy is not None:
        return read_policy(policy, options)
    if options:
        raise HybridOptError(f"options {sorted(options)} belong to a policy; name it, too: policy='frugal'")
    data = config["policy"]
    try:
        return unpack_routes({"format": 1, **data}) if "routes" in data else unpack(data, "policies")
    except HybridOptError as error:
        raise HybridOptError(f"{CONFIG}: {error}: from_pretrained(model, directory, policy=...)") from error


@contextmanager
def _together(folder):
    """The adapter files side by side, as PEFT wants them, wherever the published version has them now."""
    with TemporaryDirectory() as together:
        for name in folder.names:
            link = Path(together) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder.path(name).resolve())
        yield together


def _check_files(folder, config):
    """Adapters that lie there must be listed, or their training would be lost silently."""
    found = {str(Path(n).parent) for n in folder.names if Path(n).name == "adapter_model.safetensors"}
    listed = {"." if name == "default" else name for name in config["adapters"]}
    if found != listed:
        raise HybridOptError(f"{CONFIG}: adapters={config['adapters']}, but there are files of {sorted(found)}")


def _write(model, delta, unfrozen):
    live = base_tensors(model)
    with torch.no_grad():
        for name, value in delta.items():
            live[base_name(name)].copy_(value)
    for name in unfrozen:
        live[name].requires_grad_(live[name].is_floating_point())
