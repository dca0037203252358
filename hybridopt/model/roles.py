"""What a parameter is in its model: from module types and the model's own structure first, from names last."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..core.contracts import Shape
from .adapters import adapter_members, bare_name, original_name
from .hessian_blocks import Partition, partition
from .output_layer import output_layer
from .quantization.coded import codes_dtype
from .quantization.owners import is_frozen, kept_dtype, logical_shape
from .quantization.scales import scales
from .role_names import guess, guesses, says_bias

__all__ = ["ROLES", "Param", "base_name", "base_names", "clean", "codes_dtype", "guess", "guesses"]
__all__ += ["head_modules", "logical_shape", "of_base", "params", "uncontained"]

ROLES = ("embedding", "head", "norm", "linear", "conv", "bias", "adapter", "quantized", "scales", "other")
WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
CONTAINED = "module."


@dataclass(frozen=True)
class Param:
    """A parameter of a model: what a policy is asked about it.

    Args:
        name: as `named_parameters` says, without wrappers (`clean`).
        role: one of ROLES.
        shape: of a quantized weight that of the matrix it stands for, before packing.
        dtype: of the parameter itself, or of codes that are frozen.
        trainable: does it require gradients?
        partition: which of its output neurons share a Hessian block.
        codes: the dtype of the codes as which the weight is kept and trained; None where it is kept in its own dtype.
    """

    name: str
    role: str
    shape: Shape
    dtype: torch.dtype = torch.float32
    trainable: bool = True
    partition: Partition = Partition()
    codes: torch.dtype | None = None


def clean(name: str) -> str:
    """Return a parameter's name without what torch.compile, FSDP and checkpoint wrappers put into it."""
    return WRAPPERS.sub("", name).lstrip(".")


def uncontained(names: Iterable[str]) -> list[str]:
    """Return names without the "module." that DistributedDataParallel puts before each, where all of them have it."""
    names = list(names)
    while names and all(name.startswith(CONTAINED) and name != CONTAINED for name in names):
        names = [name.removeprefix(CONTAINED) for name in names]
    return names


def base_name(name: str) -> str:
    """Return the name that a parameter of the base model had before adapters were put on it."""
    return bare_name(clean(name))


def base_names(model: nn.Module) -> list[str]:
    """Return the base names of the base model's own parameters, whatever adapters are on it now."""
    own = of_base(model)
    return [base_name(n) for n, _ in model.named_parameters() if own(n)]


def of_base(model: nn.Module) -> Callable[[str], bool]:
    """Return what says of a live name whether this parameter or buffer is the base model's own.

    Those of adapters are not, and neither are copies that are trained as a whole.
    """
    members = adapter_members(dict(model.named_modules()))
    return lambda name: not _in_adapter(name, members) and original_name(name) == name


def head_modules(model: nn.Module) -> set[str]:
    """Return the names of the modules whose parameters are the output layer's."""
    return {p.name.rpartition(".")[0] for p in params(model) if p.role == "head"}


def params(model: nn.Module) -> list[Param]:
    """Return every parameter of the live module tree once, in order, with its role.

    A parameter that is tied to the output layer counts as its own. After the parameters come the scales of quantized
    weights, where they are opened for training.
    """
    modules, head = dict(model.named_modules(remove_duplicate=False)), output_layer(model)
    members = adapter_members(modules)
    roles: dict[int, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        roles.setdefault(id(p), set()).add(_role(name, p, (modules, members), head))
    found = [_param(n, p, _strictest(roles[id(p)]), modules) for n, p in model.named_parameters()]
    return found + [Param(clean(n), "scales", tuple(x.shape), x.dtype) for n, _, x in scales(model)]


def _param(name, p, role, modules):
    shape = logical_shape(p)
    return Param(
        clean(name), role, shape, kept_dtype(p), p.requires_grad, partition(name, shape, modules), codes_dtype(p)
    )


def _role(name, p, tree, head):
    modules, members = tree
    path, _, last = name.rpartition(".")
    owner = modules[path]
    kind = type(owner).__name__.lower()
    if is_frozen(p):
        return "quantized"
    if _in_adapter(name, members):
        return "adapter" if p.ndim > 1 else "other"
    if "norm" in kind:
        return "norm"
    if says_bias(name):  # before the output layer, whose bias does not decay either
        return "bias"
    if id(p) in head:
        return "head"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or (p.ndim > 1 and "embed" in f"{kind}.{last}".lower()):
        return "embedding"
    if p.ndim < 2:
        return "other"
    if isinstance(owner, nn.modules.conv._ConvNd):
        return "conv"
    matrix = p.ndim == 2 or (p.ndim == 3 and min(p.shape) > 1)  # 3-D: a stack of experts
    return "linear" if matrix or isinstance(owner, nn.Linear) else "other"


def _in_adapter(name: str, members: Mapping[str, set[str]]) -> bool:
    """Return whether any module on the way to a parameter calls the next member an adapter (`adapter_members`)."""
    path = name.split(".")
    return any(path[i] in members.get(".".join(path[:i]), ()) for i in range(len(path)))


def _strictest(roles):
    return next((r for r in ("head", "embedding") if r in roles), sorted(roles)[0])
