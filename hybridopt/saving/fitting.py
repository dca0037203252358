"""Whether what was saved fits a base model; checked before anything is changed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import HybridOptError
from ..core.registry import every
from ..model.adapters import adapted_layers
from ..model.base_record import Base, first_difference, persistent_buffers, record, restructured
from ..model.changed_codes import expected, layer_of_kept
from ..model.embeddings import embedding_names, row_count
from ..model.fsdp.units import check_not_run
from ..model.quantization.coded import coded_names, plain
from ..model.quantization.layers import is_linear, is_named, matrix_shape, place
from ..model.quantization.owners import is_frozen, layer_scheme, logical_shape, scheme_of
from ..model.quantization.replacing import guard_
from ..model.quantization.scales import scale_names, scales
from ..model.quantization.scheme_names import named
from ..model.quantization.targets import check
from ..model.roles import base_name, base_names
from .names import CONFIG, DELTA

__all__ = [
    "base_dtype",
    "base_tensors",
    "check_bare",
    "check_base",
    "check_quantization",
    "scaled_layers",
]


def check_bare(model: nn.Module, config: dict) -> None:
    """Raise HybridOptError unless this is a base model of the same tensors, with weights and nothing on it yet."""
    if "hybrid" in model.__dict__ or adapted_layers(model):
        raise HybridOptError("give from_pretrained the base model itself, not wrapped and without adapters")
    if any(p.is_meta for p in model.parameters()):
        raise HybridOptError("the base model is on meta and has no values; load its weights first")
    if config["quantized"]:
        check_not_run(model, "quantized weights")
    _check_rows(model, config["base"])
    if why := restructured(model, config["base"]):
        raise _another(model, why)


def check_base(model: nn.Module, config: dict, delta: Mapping[str, Tensor]) -> Base:
    """Return the record of a base model that fits what was saved.

    Args:
        model: the base model.
        config: of the saved folder.
        delta: the changed tensors of the saved folder, by name.

    Raises:
        HybridOptError: naming the tensor, for any other base.
    """
    base = record(model)
    if why := first_difference(base, config["base"]):
        raise _another(model, why + _made_at_random(base, config["base"]))
    _check_kept(base, config)
    if config["dtype"] not in (None, base_dtype(model)):
        raise HybridOptError(
            f"the base model is in {base_dtype(model)}, but was trained in {config['dtype']}, and would answer "
            f"otherwise; load it with dtype=torch.{config['dtype']}"
        )
    live = base_tensors(model) | _codes(model, config, delta) | _scales(model, config, delta)
    live |= _kept(model, config, delta)
    if unknown := sorted(set(config["unfrozen"]) - live.keys()):
        raise HybridOptError(f"{CONFIG}: unfrozen={unknown[:3]}, which the base model has not")
    for name, value in delta.items():
        target = live.get(base_name(name))
        if target is None:
            raise HybridOptError(f"{DELTA} holds {name!r}, which the base model has not")
        if is_named(base_name(name), config["quantized"]):
            raise HybridOptError(f"{DELTA} holds {name!r}, which {CONFIG} calls quantized")
        alike = target.shape == value.shape and (
            target.dtype == value.dtype or _is_dtype_alone(base_name(name), value)
        )
        if not alike:
            raise HybridOptError(
                f"{DELTA}: {name!r} has shape {tuple(value.shape)} and dtype {value.dtype}, the base model has "
                f"{tuple(target.shape)} and {target.dtype}; load the base model as it was trained (dtype=...)"
            )
    return base


def _check_kept(live: Base, config: dict) -> None:
    """Raise HybridOptError where a tensor of the base is kept as codes and was in floats, or the other way round."""
    given = any("float" not in mark[1] for mark in live.values())  # else it is going to be quantized as before
    for name, mark in live.items():
        now, then = mark[1], config["base"][name][1]
        codes = "float" not in then or (given and is_named(name, config["quantized"]))
        if codes == ("float" in now):
            raise HybridOptError(
                f"{name!r} is kept as {now} in this base, and was {'codes' if codes else then} when it was trained; "
                "load the base with the same weights quantized (skip=... leaves modules in floats)"
            )


def check_quantization(model, config) -> list[str]:
    """Return the names of the layers to quantize as before training; none where the base is quantized so already."""
    guard_(model)
    wanted, names, given = config["quantization"], config["quantized"], scheme_of(model)
    if names and wanted is None:
        raise HybridOptError(f"{CONFIG}: quantization is null, but quantized={names[:3]}")
    if given == wanted and not coded_names(model):
        return []
    if given is not None or not names:
        raise HybridOptError(
            f"the base model is quantized: {given}, but was trained with: {wanted}; load it "
            + ("in full precision" if names or wanted is None else f"quantized with {wanted}")
        )
    if foreign := sorted(set(names) - set(check(model, named(wanted, CONFIG), readable=False))):
        raise HybridOptError(f"{CONFIG}: quantized={foreign[:3]} cannot be quantized in this base model")
    return names


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters as plain tensors, persistent buffers, and opened scales, by base name."""
    parameters = model.named_parameters(remove_duplicate=False)
    named = (*parameters, *persistent_buffers(model), *((n, x) for n, _, x in scales(model)))
    return {name: x for n, t in named for name, x in plain(base_name(n), t).items()}


def _codes(model: nn.Module, config: dict, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, without values, the codes that layers will be trained as; all of these must have been saved."""
    trained = [scheme for scheme in every("schemes") if scheme.trains and scheme.name == config["quantization"]]
    places = {name: place(model, name) for name in config["quantized"]}
    twins = {
        f"{name.removesuffix(f'.{member}')}.{member}": scheme.pack(_empty(owner.get_parameter(member)))
        for scheme in trained
        for name, (owner, member) in places.items()
    }
    codes = {name: x for n, p in twins.items() for name, x in plain(n, p).items()}
    if lost := sorted(codes.keys() - {base_name(n) for n in delta}):
        raise HybridOptError(f"{DELTA} lacks {lost[0]!r}, which {CONFIG} calls quantized and trained")
    return codes


def _empty(p: Tensor) -> Tensor:
    return torch.empty(p.shape, dtype=p.dtype, device="meta")


def _kept(model: nn.Module, config: dict, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what quantized weights that were changed will be written to; all their parts must have been saved."""
    saved = {base_name(n) for n in delta}
    layers = {layer for n in saved if (layer := layer_of_kept(n))}
    if not layers:
        return {}
    frozen = [s for s in every("schemes") if not s.trains and s.name == config["quantization"]]
    parts = expected(model, frozen[0] if frozen else None, layers, scaled_layers(delta))
    if lost := sorted(parts.keys() - saved):
        raise HybridOptError(f"{DELTA} lacks {lost[0]!r}, but holds other parts of that weight")
    return parts


def _is_dtype_alone(name: str, value: Tensor) -> bool:
    return layer_of_kept(base_name(name)) is not None and value.numel() == 0 and value.is_floating_point()


def scaled_layers(delta: Mapping[str, Tensor]) -> list[str]:
    """Return the base names of the quantized layers whose scales were trained."""
    found, known = (base_name(n).rpartition(".weight.") for n in delta), scale_names()
    return [layer for layer, _, last in found if last in known]


def _scales(model: nn.Module, config: dict, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, without values, what the scales that were saved will be written to."""
    names = (n for n, _ in model.named_parameters())
    live: dict[str, Any] = {base_name(n): model.get_submodule(n.rpartition(".")[0]) for n in names}
    found: dict[str, Tensor] = {}
    for name in (n for n in scaled_layers(delta) if f"{n}.weight" in live):
        layer = live[f"{name}.weight"]
        scheme = layer_scheme(layer) or named(config["quantization"], CONFIG)
        shape = matrix_shape(layer) if is_linear(layer) else logical_shape(layer.weight)
        shapes = scheme.scale_shapes(shape)
        found |= {f"{name}.weight.{x}": torch.empty(own, device="meta") for x, own in shapes.items()}
    return found


def base_dtype(model: nn.Module) -> str | None:
    """Return the dtype of the first base parameter that is not quantized, such as "bfloat16"; None without any."""
    own = set(base_names(model))
    live = ((n, p) for n, p in model.named_parameters() if base_name(n) in own and not is_frozen(p))
    floats = (p.dtype for _, p in live if p.is_floating_point())
    first = next(floats, None)
    return None if first is None else str(first).removeprefix("torch.")


def _check_rows(model: nn.Module, base: Base) -> None:
    """Raise HybridOptError where nothing but the number of tokens differs: the user has to resize embeddings first."""
    rows, names = row_count(model), embedding_names(model) & base.keys()
    for name, p in model.named_parameters():
        if base_name(name) not in names or p.ndim != 2:
            continue
        size, _, values = base[base_name(name)]
        had, rest = divmod(size, p.shape[1])
        if had != rows and rest == 0 and restructured(model, base, names) is None:
            cure = "the new rows are in the folder" if values is None else "or load the checkpoint that has as many"
            raise HybridOptError(
                f"{name!r} has {rows} rows, one a token, and was trained with {had}; call "
                f"model.resize_token_embeddings({had}) before hybridopt.from_pretrained ({cure})"
            )


def _made_at_random(live: Base, base: Base) -> str:
    """Return what to say where all but a few tensors are the right ones: it is the same checkpoint, then."""
    marks = [(name, mark, live[name]) for name, mark in base.items() if mark[2] is not None and name in live]
    odd = [name for name, mark, mine in marks if mine[1] == mark[1] and mine[2] != mark[2]]
    in_blocks = any(part.isdigit() for name in odd for part in name.split("."))
    if in_blocks or not 0 < len(odd) <= len(marks) // 4:
        return ""
    layers = sorted({name.rpartition(".")[0].rpartition(".")[2] for name in odd})
    return (
        f" (only {', '.join(odd[:3])} of {len(marks)} tensors: a layer that is no part of the checkpoint gets initial "
        f"values at random each time; train it with the adapters, modules_to_save={layers[:3]} in their configuration "
        "or its task_type, and it is saved with them)"
    )


def _another(model, why):
    return HybridOptError(
        f"{type(model).__name__} is not the base model this was trained on: {why}; load the same model class from the "
        "same base checkpoint; what was merged into it or done to it before hybridopt.wrap has to be done again first"
    )
