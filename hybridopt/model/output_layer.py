"""The output layer of a model, from its own structure."""

from collections.abc import Iterator

from torch import nn

from .adapters import bare
from .role_names import says_head

__all__ = ["output_layer"]


def output_layer(model: nn.Module) -> set[int]:
    """Return the ids of the parameters of the output layer."""
    root = bare(model)
    found = [m for m in (_output_embeddings(root),) if m is not None]
    prefix = getattr(root, "base_model_prefix", None)
    if isinstance(prefix, str):
        body = getattr(root, prefix, None) if prefix else None
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


def _last_linear(root: nn.Module) -> nn.Module | None:
    """Return the last linear layer outside repeated blocks; None where a block has the last and no name says more.

    A layer before the blocks is where a model begins, unless its name is an output layer's.
    """
    repeated = tuple(f"{name}." for name in _repeated(root))
    linear = [(f"{name}.", m) for name, m in root.named_modules() if name and isinstance(m, nn.Linear)]
    outside = [(name, m) for name, m in linear if not name.startswith(repeated)]
    if not outside:
        return None
    name, layer = outside[-1]
    return layer if layer is linear[-1][1] or says_head(name) else None


def _repeated(root: nn.Module) -> Iterator[str]:
    """Yield the names of the blocks that a model repeats: members of a list, and those alike of a Sequential."""
    for name, module in root.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            members = [_kind(child) for child in module.children()]
            for (member, child), kind in zip(module.named_children(), members, strict=True):
                alike = members.count(kind) > 1 and any(True for _ in child.parameters())
                if alike or isinstance(module, nn.ModuleList):
                    yield f"{name}.{member}".lstrip(".")


def _kind(module: nn.Module) -> tuple:
    """Return what blocks that are alike have in common: their class, and of a single layer its shapes."""
    single = not any(True for _ in module.children())
    return type(module), *(tuple(p.shape) for p in module.parameters() if single)
