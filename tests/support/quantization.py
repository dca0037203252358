"""Quantization by the names of schemes, as tests write it."""

from hybridopt.model.quantization import replacing, targets
from hybridopt.model.quantization.owners import is_frozen, logical_shape, parts, scheme_of
from hybridopt.model.quantization.replacing import guard_
from hybridopt.model.quantization.scales import open_scales_, scales
from hybridopt.model.quantization.scheme_names import named
from hybridopt.model.quantization.sizes import fingerprint, weight_bytes

SCHEMES = ("nf4", "fp4", "int8")  # the frozen ones

__all__ = ["check", "chosen", "fingerprint", "guard_", "is_frozen", "logical_shape", "nbytes", "open_scales_"]
__all__ += ["SCHEMES", "parts", "quantize_", "scales", "scheme_of", "targets_of", "weight_bytes"]


def check(model, scheme, skip=()):
    return targets.check(model, named(scheme, "test"), skip)


def chosen(model, scheme, skip=(), device=None):
    return targets.chosen(model, named(scheme, "test"), skip, device)


def targets_of(model, scheme, skip=(), device=None):
    return targets.targets(model, named(scheme, "test"), skip, device)


def quantize_(model, scheme, names):
    replacing.quantize_(model, named(scheme, "test"), names)


def nbytes(shape, scheme):
    return named(scheme, "test").nbytes(shape)
