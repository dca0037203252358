"""What a parameter is in its model: from module types and the model's own structure first, from names last."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.contracts import Shape
from .hessian_blocks import Partition, partition
from .quantization.opened import scales

__all__ = ["ROLES", "Param", "base_name", "base_names", "clean", "codes_dtype", "guess", "logical_shape", "params"]

ROLES = ("embedding", "head", "norm", "linear", "conv", "bias", "adapter", "quantized", "scales", "other")
WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")


@dataclass(frozen=True)
class Param:
    """A parameter by name, role and logical shape (of a quantized one: before packing), and its Hessian blocks.

    codes: the dtype of the codes as which its weight is kept and trained; None where it is kept in its own dtype.
    """

    name: str
    role: str
    shape: Shape
    dtype: torch.dtype = torch.float32
    trainable: bool = True
    partition: Partition = Partition()
    codes: torch.dtype | None = None


def clean(name: str) -> str:
    """A parameter's name without what torch.compile, FSDP and checkpoint wrappers put into it."""
    return WRAPPERS.sub("", name).lstrip(".")


def base_name(name: str) -> str:
    """The name that a parameter of the base model had before PEFT wrapped its layer and the model."""
    return re.sub(r"\.(base_layer|original_module)(?=\.)", "", clean(name).removeprefix("base_model.model."))


def base_names(model: nn.Module) -> list[str]:
    """Names of the base model's own parameters, whatever adapters are on it now."""
    modules = dict(model.named_modules())
    paths = ((n, *n.rpartition(".")[::2]) for n, _ in model.named_parameters())
    own = (n for n, path, last in paths if not _in_adapter(path.split("."), last, modules))
    return [base_name(n) for n in own if ".modules_to_save." not in n]


def params(model: nn.Module) -> list[Param]:
    """Every parameter of the live module tree once, in order, with its role; a tied one counts as the output layer.

    After them the scales of quantized weights, where they are opened for training.
    """
    modules, head = dict(model.named_modules(remove_duplicate=False)), _output_layer(model)
    roles: dict[int, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        roles.setdefault(id(p), set()).add(_role(name, p, modules, head))
    found = [_param(n, p, _strictest(roles[id(p)]), modules) for n, p in model.named_parameters()]
    return found + [Param(clean(n), "scales", tuple(x.shape), x.dtype) for n, _, x in scales(model)]


def guess(name: str, p: Tensor) -> str:
    """The role of a parameter of which only name and shape are known."""
    last, lower = name.rpartition(".")[2], name.lower()
    if not p.is_floating_point() and not p.is_complex():
        return "quantized"
    if "lora_" in lower and p.ndim > 1:
        return "adapter"
    if last.startswith("bias") or last.endswith("_bias"):
        return "bias"
    if re.search(r"norm|(^|[._])ln(_|\d|\.|$)", lower):
        return "norm"
    if p.ndim < 2:
        return "other"
    if re.search(r"(^|\.)(lm_head|head|classifier|score|embed_out)\.", lower):
        return "head"
    if re.search(r"embed|(^|\.)(wte|wpe)\.", lower):
        return "embedding"
    return "conv" if p.ndim > 3 else "linear"


def _param(name, p, role, modules):
    shape = logical_shape(p)
    return Param(clean(name), role, shape, p.dtype, p.requires_grad, partition(name, shape, modules), codes_dtype(p))


def _role(name, p, modules, head):
    *path, last = name.split(".")
    owner = modules[".".join(path)]
    kind = type(owner).__name__.lower()
    if not p.is_floating_point() and not p.is_complex():
        return "quantized"
    if _in_adapter(path, last, modules):
        return "adapter" if p.ndim > 1 else "other"
    if "norm" in kind:
        return "norm"
    if id(p) in head:
        return "head"
    if last.startswith("bias") or last.endswith("_bias"):
        return "bias"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or (p.ndim > 1 and "embed" in f"{kind}.{last}".lower()):
        return "embedding"
    if p.ndim < 2:
        return "other"
    if isinstance(owner, nn.modules.conv._ConvNd):
        return "conv"
    matrix = p.ndim == 2 or (p.ndim == 3 and min(p.shape) > 1)  # 3-D: a stack of experts
    return "linear" if matrix or isinstance(owner, nn.Linear) else "other"


def _in_adapter(path, last, modules):
    """PEFT's tuner layers say which of their members are adapters; a whole module that is saved stays what it is."""
    for i, member in enumerate([*path[1:], last], 1):
        layer = modules.get(".".join(path[:i]))
        if member != "modules_to_save" and member in getattr(layer, "adapter_layer_names", ()):
            return True
    return False


def _output_layer(model):
    """Ids of the parameters of the output layer."""
    root = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    found = [m for m in (_output_embeddings(root),) if m is not None]
    if hasattr(root, "base_model_prefix"):
        body = getattr(root, root.base_model_prefix, None) if root.base_model_prefix else None
        if isinstance(body, nn.Module) and body is not root:
            found += [child for child in root.children() if child is not body]
    elif linear := _last_linear(root):
        found.append(linear)
    return {id(p) for module in found for p in module.parameters()}


def _output_embeddings(root):
    try:
        return root.get_output_embeddings() if hasattr(root, "get_output_embeddings") else None
    except NotImplementedError:
        return None


def _last_linear(root):
    """The last linear layer outside repeated blocks, unless it is all there is."""
    blocks = [n + "." for n, m in root.named_modules() if isinstance(m, nn.ModuleList)]
    linear = [m for n, m in root.named_modules() if n and isinstance(m, nn.Linear) and not n.startswith(tuple(blocks))]
    return linear[-1] if linear else None


def _strictest(roles):
    return next((r for r in ("head", "embedding") if r in roles), sorted(roles)[0])


def codes_dtype(p: Tensor) -> torch.dtype | None:
    """The dtype of the codes as which a float parameter is kept; None for plain ones."""
    codes = getattr(p, "codes", None)
    return codes.dtype if isinstance(codes, Tensor) else None


def logical_shape(p: Tensor) -> Shape:
    """The shape of a parameter, of a quantized one before packing."""
    state = getattr(p, "quant_state", None)
    return tuple(p.shape if state is None else state.shape)
