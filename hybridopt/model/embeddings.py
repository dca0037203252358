"""The input and output embeddings of transformers models, whose rows are the tokens."""

from typing import Any

from torch import nn

from .adapters import bare
from .roles import base_name, base_names

__all__ = ["embedding_layer", "embedding_names", "resized", "row_count"]


def embedding_names(model: nn.Module) -> set[str]:
    """Return the base names of the parameters of both embeddings; none for models that do not say which these are."""
    layers = {id(layer) for layer in map(embedding_layer, [bare(model)] * 2, ("input", "output")) if layer is not None}
    prefixes = [n for n, m in model.named_modules(remove_duplicate=False) if id(m) in layers]
    inside = {base_name(n) for n, _ in model.named_parameters() if any(n.startswith(f"{p}.") for p in prefixes)}
    return inside & set(base_names(model))


def row_count(model: nn.Module) -> int | None:
    """Return for how many tokens a model has input embeddings; None where it has none, or does not say so."""
    layer = embedding_layer(bare(model), "input")
    weight = getattr(layer, "weight", None)
    return len(weight) if weight is not None and weight.ndim == 2 else None


def resized(model: nn.Module) -> bool:
    """Return whether the module with the input embeddings was made for another number of tokens, as far as it says."""
    layer = embedding_layer(bare(model), "input")
    module: Any = next((m for m in model.modules() if layer is not None and layer in m._modules.values()), None)
    made_for = getattr(module, "vocab_size", None)
    return isinstance(made_for, int) and made_for != row_count(model)


def embedding_layer(root: Any, which: str) -> nn.Module | None:
    """Return what a model gives as its embeddings, "input" or "output"; None where it has none, or does not say."""
    get = getattr(root, f"get_{which}_embeddings", None)
    try:
        return None if get is None else get()
    except (NotImplementedError, AttributeError):  # a model without
        return None
