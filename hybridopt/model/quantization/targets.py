"""Which weights of a model a scheme quantizes, and what speaks against it."""

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ...core.contracts import Scheme
from ...core.errors import HybridOptError, HybridOptWarning
from ..adapters import adapted_layers
from ..containers import compiled_in_place
from ..fsdp.sharded_tensors import class_of, is_sharded, share_count, whole
from ..fsdp.units import hooks_of_others
from .candidates import candidates
from .layers import is_linear, place
from .owners import scheme_of
from .read_elsewhere import read_elsewhere
from .scheme_names import frozen_names

__all__ = ["check", "check_cuts", "check_weight", "chosen", "targets", "warn_of_read"]


def targets(
    model: nn.Module,
    scheme: Scheme,
    skip: Sequence[str] = (),
    device: torch.device | None = None,
    readable: bool = True,
) -> list[str]:
    """Return the names of the weights that `scheme` covers, those of linear layers (`Conv1D` too) by the layer's.

    The others are weights of modules that compute by themselves: of subclasses of Linear, and stacks of matrices, such
    as experts. Left out are the modules named in `skip` with all beneath them, those that transformers keeps in fp32,
    weights that are shared with another module, those that are no plain 16- or 32-bit float parameters of at least 64
    values, those of linear layers that other modules read, and those that the scheme itself does not cover.

    Args:
        model: on any device, meta too.
        scheme: what the weights are to be quantized with.
        skip: names of modules to leave out.
        device: where the model is going to be; None: where each weight is.
        readable: leave out what other modules read; without, see what they would have been.

    Raises:
        HybridOptError: for names in `skip` that the model does not have.
    """
    _check_skip(model, skip)
    return [each.name for each in candidates(model, scheme, skip, device, readable) if each.why_not is None]


def check(model: nn.Module, scheme: Scheme, skip: Sequence[str] = (), readable: bool = True) -> list[str]:
    """Return the names of the weights that `quantize_` should replace; raise where it could not, and change nothing.

    Empty if the model already is quantized with this very scheme.

    Args:
        model: with real weights.
        scheme: what its weights are to be quantized with.
        skip: names of modules to leave out, see `targets`.
        readable: leave out what other modules read, see `targets`.
    """
    _check_skip(model, skip)
    if scheme_of(model) == scheme.name:
        return []
    _check_untouched(model, scheme)
    names = chosen(model, scheme, skip, readable=readable)
    for name in names:
        check_weight(model, name, scheme)
    if scheme.trains:
        check_cuts(model, scheme, names)
    return names


def check_cuts(model: nn.Module, scheme: Scheme, names: Iterable[str]) -> None:
    """Raise HybridOptError for sharded weights whose codes cannot be cut as they are.

    Args:
        model: sharded or not.
        scheme: that is going to make the codes.
        names: of the weights, as `quantize_` takes them.
    """
    for name in names:
        module, member = place(model, name)
        p = module.get_parameter(member)
        if is_sharded(p) and not scheme.cuts(tuple(p.shape), share_count(p)):
            raise HybridOptError(
                f"{name!r} (shape {tuple(p.shape)}) is sharded over {share_count(p)} ranks, between which codes of "
                f"quantization={scheme.name!r} cannot be cut: a group of values would lie on two of them. Shard over "
                "another number of ranks, take DDP, or train without quantization"
            )


def chosen(
    model: nn.Module,
    scheme: Scheme,
    skip: Sequence[str] = (),
    device: torch.device | None = None,
    readable: bool = True,
) -> list[str]:
    """Return `targets`, of which there must be one; raise HybridOptError if there is none.

    Args:
        model: on any device, meta too.
        scheme: what the weights are to be quantized with.
        skip: names of modules to leave out.
        device: where the model is going to be; None: where each weight is.
        readable: leave out what other modules read, see `targets`.
    """
    names = targets(model, scheme, skip, device, readable)
    if not names:
        found: dict[str, list[str]] = {}
        for each in candidates(model, scheme, skip, device, readable):
            found.setdefault(str(each.why_not), []).append(each.parameter)
        listed = [f"{why}: {all_[0]}" + f" and {len(all_) - 1} more" * (len(all_) > 1) for why, all_ in found.items()]
        raise HybridOptError(
            f"quantization={scheme.name!r}: the model has no linear layer to quantize "
            f"({'; '.join(listed) or 'and no experts either'}); leave `quantization` out"
        )
    return names


def warn_of_read(model: nn.Module, scheme: Scheme, skip: Sequence[str] = (), stacklevel: int = 2) -> None:
    """Warn of layers that are not quantized because other modules read their weights.

    Args:
        model: before it is quantized.
        scheme: what it is going to be quantized with.
        skip: names of modules that are left out anyway.
        stacklevel: as that of `warnings.warn`, seen from here.
    """
    read = {} if scheme.values_seen else read_elsewhere(model, scheme.codes_dtype)
    lost = [name for name in targets(model, scheme, skip, readable=False) if name in read] if read else []
    if lost:
        warnings.warn(
            f"{len(lost)} linear layers such as {lost[0]!r} are not quantized: {read[lost[0]]} reads their weights "
            f"itself, and would find {scheme.codes_dtype} codes there",
            HybridOptWarning,
            stacklevel=stacklevel + 1,
        )


def check_weight(model: nn.Module, name: str, scheme: Scheme) -> None:
    """Raise HybridOptError if a weight cannot be quantized as it is.

    Args:
        model: that has the weight.
        name: as `targets` has it; refused if the weight has no values or too large ones, or if its linear layer has
            hooks, or is compiled, and a layer in its place would not be.
        scheme: what it is to be quantized with.
    """
    layer, member = place(model, name)
    weight = layer.get_parameter(member)
    path = name.removesuffix(f".{member}")
    if weight.is_meta:
        raise HybridOptError(f"{path}.{member} is on the meta device; load the weights before quantizing them")
    if is_linear(layer) and not scheme.in_place:
        _check_replaceable(path, layer)
    low, high = (value.item() for value in torch.aminmax(whole(weight.detach())))
    if not -scheme.largest <= low <= high <= scheme.largest:
        raise HybridOptError(
            f"{path}.{member} has values from {low} to {high}; quantization={scheme.name!r} takes finite ones up to "
            f"{scheme.largest:g}"
        )


def _check_replaceable(name: str, layer: nn.Module) -> None:
    """Raise HybridOptError for a layer with what one in its place would not have."""
    if class_of(layer) is not type(layer):
        raise HybridOptError(
            f"{name} is sharded by itself, and its quantized replacement would not be; call fully_shard on the layers "
            "of the model, not on single linear ones, or quantize before"
        )
    if "forward" in vars(layer) or hooks_of_others(layer):
        raise HybridOptError(f"{name} has hooks, which its quantized replacement would lose; add them after wrap")
    if compiled_in_place(layer):
        raise HybridOptError(
            f"{name} was compiled in place, and its quantized replacement would not be; call torch.compile, or "
            "compile(), after wrap"
        )


def _check_skip(model: nn.Module, skip: Sequence[str]) -> None:
    if unknown := sorted(set(skip) - {name for name, _ in model.named_modules()}):
        raise HybridOptError(f"skip={unknown}: the model has no modules of that name")


def _check_untouched(model: nn.Module, scheme: Scheme) -> None:
    if present := scheme_of(model) or (getattr(model, "is_quantized", False) and model.quantization_method):
        raise HybridOptError(
            f"quantization={scheme.name!r}: the model already is quantized ({present}); leave `quantization` out, or "
            "load the model in full precision"
        )
    for name in adapted_layers(model):
        cure = "quantization comes first: pass the bare model with both `quantization` and `peft_config`"
        cure = f"its base is frozen; take {frozen_names()}" if scheme.trains else cure
        raise HybridOptError(f"quantization={scheme.name!r}: {name} already has an adapter; {cure}")
