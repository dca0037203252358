"""`from_pretrained`: restore a saved folder on its base model."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .core.contracts import Adapters
from .core.errors import HybridOptError
from .core.files import tensors
from .model.base_record import Base, Origin, without_values
from .model.changed_codes import codes_record, layer_of_kept, restore_, unknown
from .model.containers import as_given, check_container, uncompiled
from .model.fsdp.sharded_tensors import reshard_, sharded_tensors
from .model.placement.guarding.refusals import check_not_quantized, check_written
from .model.placement.guarding.trained_scales import open_scales_
from .model.placement.homes import assign
from .model.quantization.replacing import quantize_
from .model.quantization.sharded_codes import ShardedCodes, follow_shards_
from .model.roles import base_name, clean, of_base
from .policy.routes import Ready, Route
from .saving.contents import Contents, contents_of
from .saving.fitting import base_tensors, check_bare, check_base, check_quantization, scaled_layers
from .saving.folder import Folder, open_folder
from .saving.held_adapters import together
from .saving.names import CONFIG, DELTA
from .saving.replay.rebuild import rebuild_shards_, rebuilt
from .saving.save import check_directory
from .saving.whole.read import matched, write_onto_
from .wrapping import attach_strategy

__all__ = ["from_pretrained"]


def from_pretrained(
    model: nn.Module,
    directory: str | PathLike[str],
    policy: str | Ready[Route] | None = None,
    is_trainable: bool = True,
    **policy_options: Any,
) -> nn.Module:
    """Bring a saved folder onto its base model and return the model as `wrap` does.

    It is quantized as before and gets its adapters, then changed tensors are written. Tensors that were saved as the
    scalars of a run are rebuilt first, by as many passes over them as it had steps.

    Args:
        model: the same base model as before training, unwrapped; quantized the same way if it was given quantized.
            Of one that is sharded (`fully_shard`), and not called yet, each rank reads one tensor after the other
            and keeps its part; frozen weights are quantized one by one, and are whole on every rank then. All ranks
            have to call this.
        directory: what `save_pretrained` wrote; every file is verified against the manifest first.
        policy: another policy to go on with; None takes the saved one.
        is_trainable: False loads the adapters for inference.
        policy_options: of a policy that is given by its name.

    Raises:
        HybridOptError: before the model is changed, for a missing, damaged or foreign file and for another base model.
    """
    check_directory(directory)
    if not isinstance(model, nn.Module):
        raise HybridOptError(f"model={model!r} is not allowed; give the base model itself, an nn.Module")
    check_container(model, changes=True)
    with uncompiled(model) as inner:
        loaded = _load(inner, directory, policy, is_trainable, policy_options)
    given = as_given(model, loaded)
    loaded.__dict__["hybrid"].held_by(given)
    return given


def _load(
    model: nn.Module,
    directory: str | PathLike[str],
    policy: str | Ready[Route] | None,
    is_trainable: bool,
    policy_options: dict[str, Any],
) -> nn.Module:
    """Load a folder onto a model in no container; see `from_pretrained`."""
    with open_folder(Path(directory)) as folder:
        reshard_(model)
        sharded = bool(sharded_tensors(model))
        saved = contents_of(folder, policy, policy_options, sharded)
        config, delta = saved.config, saved.delta
        follow_shards_(model)
        check_bare(model, config)
        names = check_quantization(model, config)
        base = check_base(model, config, delta)
        check_not_quantized(model, config["quantization"] if names else None)
        _check_writable(saved, model, base)
        if config["whole"]:
            with together(folder) as place:
                write_onto_(model, matched(model, Path(place)))
        stored = list(delta)  # what is rebuilt from a log starts from the base's own values
        if saved.run is not None and sharded:
            rebuild_shards_(saved.run, base_tensors(model))
        elif saved.run is not None:
            delta = delta | rebuilt(saved.run, base_tensors(model))
        model, held = _with_adapters(saved, model, names, is_trainable)
        if sharded:
            delta = _write_shards(model, folder, delta)
    if scaled_layers(delta) or saved.ready.opens_scales:
        open_scales_(model)
    known = {base_name(n) for n in (*stored, *held)}
    codes = unknown(codes_record(model), {f"{layer_of_kept(n)}.weight" for n in known})
    _write(model, delta, config["unfrozen"] if is_trainable else ())
    if is_trainable and config["trainable"] is not None:
        _train_only(model, set(config["trainable"]))
    quantization = config["quantization"] if config["quantized"] else None
    origin = Origin(without_values(base, known), codes, quantization, tuple(config["quantized"]))
    loaded = attach_strategy(model, saved.ready, config["seed"], origin)
    loaded.__dict__["hybrid"].keep_activations(saved.activations)
    return loaded


def _check_writable(saved: Contents, model: nn.Module, base: Base) -> None:
    """Raise HybridOptError for weights that rest where what was saved cannot be written.

    Args:
        saved: what lies in the folder.
        model: the base.
        base: its record.
    """
    written = base if saved.config["whole"] else {base_name(name) for name in saved.changed}
    check_written(model, [layer_of_kept(name) or name for name in written], str(saved.folder.directory))


def _with_adapters(
    saved: Contents, model: nn.Module, names: Sequence[str], is_trainable: bool
) -> tuple[nn.Module, set[str]]:
    """Return the model, quantized and with its adapters as they were, and the names of what the adapters hold.

    Args:
        saved: what lies in the folder.
        model: the base.
        names: of the weights that are to be quantized.
        is_trainable: are the adapters to be trained?
    """
    config, library = saved.config, saved.library
    state = {key: config[key] for key in ("adapters", "active", "injected")}
    with together(saved.folder) as place:
        if config["adapters"]:
            library.prepare(model, Path(place), config["adapters"], saved.scheme if names else None)
            _check_trainable(config, library.check_saved(model, place, **state))
        if names:
            quantize_(model, saved.scheme, names)
        if not config["adapters"]:
            return model, set()
        model = _adapted(library, model, place, state | {"is_trainable": is_trainable})
        return model, library.saved_names(model, place)


def _adapted(library: Adapters, model: nn.Module, folder: str, state: dict[str, Any]) -> nn.Module:
    try:
        return library.load(model, folder, **state)
    except HybridOptError:
        raise
    except Exception as error:  # libraries raise many types
        raise HybridOptError(
            f"the adapters {state['adapters']} do not go on this model, which was changed meanwhile: load it anew "
            f"({type(error).__name__}: {str(error)[:300]})"
        ) from error


def _check_trainable(config: dict[str, Any], names: set[str]) -> None:
    """Raise HybridOptError if parameters are to be trained that the adapters, which add `names`, do not have."""
    if unknown := sorted(set(config["trainable"] or ()) - names):
        raise HybridOptError(f"{CONFIG}: trainable={unknown[:3]}, which the adapters have not")


def _train_only(model: nn.Module, names: set[str]) -> None:
    """Let those parameters of adapters require gradients that did when they were saved."""
    own = of_base(model)
    for name, p in model.named_parameters():
        if not own(name):
            p.requires_grad_(clean(name) in names)


def _write_shards(model: nn.Module, folder: Folder, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write changed tensors, one at a time, to what this rank has of them; return what is written otherwise."""
    live, left, codes = base_tensors(model), {}, ShardedCodes(model)
    for name, value in tensors.each(folder.path(DELTA), "changed base tensors") if delta else ():
        target = live.get(base_name(name))
        if codes.take_(base_name(name), value):
            continue
        if target is None:
            left[name] = value.clone()  # of quantized weights, which every rank has whole
        else:
            assign(target, value)
    return left


def _write(model: nn.Module, delta: Mapping[str, Tensor], unfrozen: Iterable[str]) -> None:
    """Write changed tensors, and let those base parameters that were trained require gradients."""
    live = base_tensors(model)
    with torch.no_grad():
        for name, value in delta.items():
            if not layer_of_kept(base_name(name)):
                assign(live[base_name(name)], value)
    restore_(model, delta)
    for name in unfrozen:
        live[name].requires_grad_(live[name].is_floating_point())
