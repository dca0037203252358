"""Weights of a live model become quantized ones, and float ones again."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from ...core.contracts import Scheme
from ...core.registry import every
from ..fsdp.sharded_tensors import is_sharded, whole
from ..fsdp.units import encode_, move_, take_out_
from .coded import coded_names
from .layers import is_linear, place
from .owners import owner
from .packing import hook_, pack_, unpack_

__all__ = ["assemble_", "dequantize_", "guard_", "quantize_", "twins_"]


def quantize_(model: nn.Module, scheme: Scheme, names: Iterable[str], mark: bool = True) -> None:
    """Quantize the named weights in place, one by one: other layers, or codes in the same modules.

    A full-precision weight is freed before the next is touched. Biases stay the same parameters; training
    mode and device are kept. What is sharded is whole on every rank then, and nobody gathers it; where codes are
    trained they are sharded as the weight was.

    Args:
        model: with real weights; `check` says which of its layers can be taken.
        scheme: what they are quantized with.
        names: of linear layers, or of other weights by themselves; with none of them nothing happens.
        mark: set on the model what other libraries look for; False: whoever has quantized the last of many does.
    """
    _replace_(model, names, scheme.quantize, scheme, mark)


def assemble_(model: nn.Module, scheme: Scheme, name: str, kept: Mapping[str, Tensor]) -> None:
    """Put what `quantize_` once made of a weight in its place, of the tensors that it was kept as; mark nothing.

    Args:
        model: whose weight may be on the meta device.
        scheme: that made them.
        name: of the weight, as of `quantize_`.
        kept: all that the weight consists of, by name (`Scheme.kept`, or the parts of a packed weight).
    """
    module, member = place(model, name)
    if member == "weight" and is_linear(module):
        model.set_submodule(name, scheme.assembled(module, kept))
    else:
        pack_(module, member, scheme, kept)


def twins_(model: nn.Module, scheme: Scheme, names: Iterable[str]) -> None:
    """Put in the place of the named weights of a model on meta what `quantize_` would put there, without values.

    Args:
        model: on the meta device.
        scheme: what its layers would be quantized with.
        names: as of `quantize_`.
    """
    _replace_(model, names, scheme.twin, scheme)


def dequantize_(model: nn.Module) -> None:
    """Turn all weights that are trained as codes back into float parameters, in place and one by one."""
    places = [place(model, name) for name in coded_names(model)]
    schemes = {scheme for layer, member in places if (scheme := owner(layer.get_parameter(member))) is not None}
    for layer, member in places:
        unpack_(layer, member)
    for scheme in schemes:
        scheme.unmark_(model)


def guard_(model: nn.Module) -> None:
    """Keep the libraries of all schemes from spoiling the codes in `model`, whoever has quantized it.

    Raises HybridOptError, changing nothing, if that has already happened.
    """
    for scheme in every("schemes"):
        scheme.guard_(model)


def _replace_(
    model: nn.Module,
    names: Iterable[str],
    make: Callable[[nn.Module], nn.Module],
    scheme: Scheme,
    mark: bool = True,
) -> None:
    for name in (names := list(names)):
        module, member = place(model, name)
        if scheme.trains and is_sharded(p := module.get_parameter(member)):
            encode_(model, module, member, scheme.pack(whole(p.detach())))
            hook_(module)
            continue
        if sharded := is_sharded(module.get_parameter(member)):
            take_out_(model, module, member)
        if member == "weight" and is_linear(module):
            model.set_submodule(name, new := make(module))
            if sharded:
                move_(model, module, new)
        else:
            pack_(module, member, scheme)
    if names and mark:
        scheme.mark_(model)
