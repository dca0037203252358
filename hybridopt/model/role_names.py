"""Roles by name and shape, for parameters that are given without their module tree."""

import re
from collections.abc import Mapping

from torch import Tensor

from .quantization.owners import is_frozen

__all__ = ["guess", "guesses", "says_bias", "says_embedding", "says_head"]

BIAS = re.compile(r"^bias|(^|_)bias(es)?(_|$)")
NORM = re.compile(r"norm(?!al(?!i))|(^|_)(ln|bn|gn)(_|\d|$)")  # "normal" is none, "normalization" is one
EMBEDDING = re.compile(r"embed|(^|_)(emb|wte|wpe)(_|$)|^shared$")  # T5 and BART call theirs "shared"
LAYER = re.compile(r"proj|map|dense|linear|conv|fc")  # of a layer beside an embedding: "embedding_hidden_mapping_in"
HEAD = re.compile(r"(^|\.)(lm_head|head|classifier|score|embed_out)\.")
WHOLE = r"cls|fc|fc_out|heads|logits|out|output|output_projection|proj_out|qa_outputs|to_logits|unembed"
FIRST = re.compile(rf"^(base_model\.model\.)?(\w+_head|{WHOLE})\.")
SEQUENCE = re.compile(r"^\d+\.weight$")
BESIDE = re.compile(
    r"^(base_model\.model\.)?(pooler|projector)\."
)  # between the body and a head; a body may end in one


def guesses(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the roles of parameters of which only names and shapes are known, by name."""
    headed = any(says_head(name) for name in named)
    roles = {name: guess(name, p, headed) for name, p in named.items()}
    for name in [n for n, role in roles.items() if role == "bias"]:
        if roles.get(name.rpartition(".")[0] + ".weight") == "norm":
            roles[name] = "norm"
    last = None if headed else _last_of_sequence({n: tuple(p.shape) for n, p in named.items() if roles[n] == "linear"})
    return roles | ({} if last is None else {last: "head"})


def guess(name: str, p: Tensor, headed: bool = False) -> str:
    """Return the role of a parameter of which only name and shape are known.

    Args:
        name: without wrappers.
        p: the parameter.
        headed: is there an output layer among the parameters, by its name?
    """
    owner, last = _owner_and_last(name)
    nearest = name.lower().rpartition(".")[0].rpartition(".")[2]
    if is_frozen(p):
        return "quantized"
    if "lora_" in name.lower() and p.ndim > 1:
        return "adapter"
    if _is_norm(owner, nearest, last, p):
        return "norm"
    if says_bias(name):
        return "bias"
    if p.ndim < 2:
        return "other"
    if says_head(name) or (headed and BESIDE.match(name)):
        return "head"
    return _of_matrix(owner, last, p)


def says_bias(name: str) -> bool:
    """Return whether any part of a name says bias, as in "fc.bias", "q_bias" or "relative_attention_bias.weight"."""
    return any(BIAS.search(part) for part in name.lower().split("."))


def says_head(name: str) -> bool:
    """Return whether a name is one that output layers have."""
    return bool(HEAD.search(name) or FIRST.match(name))


def _last_of_sequence(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the name of the last linear weight of a plain Sequential, such as "2.weight"; None where it is a block's.

    shapes: of all linear weights, by name, in their order.
    """
    last = next(reversed(shapes), "")
    alone = bool(SEQUENCE.match(last)) and list(shapes.values()).count(shapes[last]) == 1
    return last if alone and all(name[0].isdigit() for name in shapes) else None


def _is_norm(owner: str, nearest: str, last: str, p: Tensor) -> bool:
    """Tell whether a parameter is a norm's; of a name without words, as in a Sequential, its form tells."""
    if NORM.search(owner) and (nearest == owner or p.ndim < 2):
        return True
    return p.ndim == 1 and (bool(NORM.search(last)) or (last == "weight" and p.numel() > 1))


def says_embedding(name: str) -> bool:
    """Return whether a matrix of this name is one of an embedding."""
    owner, last = _owner_and_last(name)
    return bool(EMBEDDING.search(last)) or _owns_embedding(owner)


def _owner_and_last(name: str) -> tuple[str, str]:
    """Return the last word of a path before the parameter's own name, and that; numbers are no words."""
    path, _, last = name.lower().rpartition(".")
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), ""), last


def _owns_embedding(owner: str) -> bool:
    return bool(EMBEDDING.search(owner)) and not LAYER.search(owner)


def _of_matrix(owner: str, last: str, p: Tensor) -> str:
    if EMBEDDING.search(last) or (p.ndim < 4 and _owns_embedding(owner)):
        return "embedding"
    if p.ndim > 3 or (p.ndim == 3 and "conv" in owner):
        return "conv"
    return "linear" if p.ndim == 2 or min(p.shape) > 1 else "other"  # 3-D: a stack of experts
