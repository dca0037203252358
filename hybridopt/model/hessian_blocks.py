"""Hessian blocks of a weight: which of its output neurons belong together, from the module tree and its configs."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import nn

from ..core.contracts import Shape
from .adapters import without_wrappers

__all__ = ["Partition", "guess_partition", "partition"]

KINDS = ("query", "key", "value")
FUSED = ("qkv", "qkv_proj", "qkv_linear", "query_key_value", "Wqkv", "c_attn", "att_proj", "in_proj")
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
KEY_COUNTS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")
SIZES = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "dim_head")


@dataclass(frozen=True)
class Partition:
    """The order of the output neurons in a weight, and which of them share a Hessian block.

    Source: Zhang et al. 2024 (Adam-mini), Alg. 3.

    Args:
        axis: along which output neurons are numbered: "rows", or "columns" of a weight that is stored transposed.
        parts: (kind, blocks, neurons of each block) in their order along the axis; kinds are query, key, value and
            neuron. Without parts every neuron is a block.
        groups: how many times the parts are repeated to fill the axis.
    """

    axis: str = "rows"
    parts: tuple[tuple[str, int, int], ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class _Heads:
    """Head counts and head size of one attention module (None: unknown), and the layout of fused projections."""

    query: int | None
    key: int | None
    size: int | None
    layout: str


def partition(name: str, shape: Shape, modules: Mapping[str, nn.Module]) -> Partition:
    """Return the Hessian blocks of a parameter: heads of queries and keys, single output neurons of all else.

    A module counts as an attention if it has query, key and value projections, or a fused one, of the sizes that its
    own head count or that of the nearest config asks for. In a weight that fits none of it every output neuron is a
    block.

    Args:
        name: of the parameter in the live model.
        shape: of the parameter, [out, in] before packing.
        modules: all modules of the model by name.
    """
    *path, last = name.split(".")
    owner = modules[".".join(path)]
    if isinstance(owner, nn.modules.conv._ConvTransposeNd) and owner.groups == 1 and len(shape) > 2:
        return Partition("columns", (("neuron", shape[1], math.prod(shape[2:])),))
    base = Partition("columns" if _transposed(owner, shape) else "rows")
    if len(shape) != 2:
        return base
    if last.endswith("_weight") and isinstance(owner, nn.MultiheadAttention):
        path = [*path, last.removesuffix("_weight")]
    return _projection(base, without_wrappers(path), shape[-1 if base.axis == "columns" else -2], modules)


def guess_partition(name: str, shape: Shape) -> Partition:
    """Return the blocks of a parameter by its name alone: query, key or value with unknown heads, or nothing."""
    *path, _ = name.split(".")
    kind, _ = _kind(path[-1], None) if path and len(shape) == 2 else (None, None)
    return Partition(parts=((kind, shape[0], 1),)) if kind else Partition()


def _projection(base, path, lines, modules):
    """Return `base` with the parts of the last member of `path`, if that is a projection of an attention."""
    if not path:
        return base
    *above, member = path
    attention = modules[".".join(above)]
    siblings = {*attention._modules, *(n.removesuffix("_weight") for n in attention._parameters)}
    apart = {"c_attn", "q_attn"} <= siblings  # GPT-2's cross-attention
    kind, query = ("query", member) if apart and member == "q_attn" else _kind(member, frozenset(siblings))
    fused = member in FUSED and (member != "in_proj" or isinstance(attention, nn.MultiheadAttention))
    if not fused and not kind:
        return base
    heads = _heads(attention, member, [modules[".".join(above[:i])] for i in range(len(above), -1, -1)])
    if fused:
        return _fused(base, lines, heads, apart)
    return replace(base, parts=(_separate(kind, lines, heads, _lines(attention, query)),))


@lru_cache(maxsize=1024)  # layers repeat
def _kind(member: str, siblings: frozenset[str] | None) -> tuple[str | None, str | None]:
    """Return "query", "key" or "value" for the name `member`, and the name of its query; (None, None) for others.

    All three must be among the siblings, under names that differ in that word only; None: siblings are unknown.
    """
    for words in (KINDS, "qkv"):
        for kind, word in zip(KINDS, words, strict=True):
            pattern = rf"(?<![A-Za-z])([wW]?){word}(?![A-Za-z])"
            others = [re.sub(pattern, rf"\g<1>{other}", member, count=1) for other in words]
            if re.search(pattern, member) and (siblings is None or set(others) <= siblings):
                return kind, others[0]
    return None, None


def _separate(kind, lines, heads, query_lines):
    """Return (kind, blocks, neurons) of one projection: its heads where the sizes agree, else single neurons."""
    size = heads.size or (query_lines // heads.query if heads.query and query_lines else 0)
    count = lines // size if size and heads.query else 0
    wanted = heads.query if kind == "query" else heads.key or count
    fits = count and count * size == lines and count == wanted and heads.query % count == 0
    return (kind, count, size) if fits and kind != "value" else (kind, lines, 1)


def _fused(base, lines, heads, apart):
    """Return `base` with the parts of a weight that holds queries (unless `apart`), keys and values.

    They lie one after the other, for all heads together or for each group of heads.
    """
    count, layout = heads.query or 0, heads.layout
    keys = {"heads": count, "multi_query": 1}.get(layout, heads.key or count)
    together = (0 if apart else count) + 2 * keys
    size = heads.size or lines // max(1, together)
    if layout == "unknown" or not count or count % keys or not size or lines != together * size:
        return base
    groups = keys if layout in ("heads", "groups") else 1
    parts = (("query", count // groups, size), ("key", keys // groups, size), ("value", keys // groups * size, 1))
    return replace(base, parts=parts[apart:], groups=groups)


def _heads(attention, member, above):
    """Return the heads of an attention by its own attributes, or by the nearest config that has a head count."""
    configs = [m.config for m in above if getattr(m, "config", None) is not None]
    sources = [attention, *configs]
    at = next((i for i, source in enumerate(sources) if _count(source, COUNTS)), 0)
    near = sources[: at + 1]
    query, key, size = (
        next((n for s in near if (n := _count(s, names))), None) for names in (COUNTS, KEY_COUNTS, SIZES)
    )
    return _Heads(query, key, size, _layout(member, [attention, *configs[:1]]))


def _layout(member, sources):
    """Return how a fused projection is laid out; "": all queries, all keys, all values."""

    def told(name):
        return next((v for s in sources if (v := getattr(s, name, None)) is not None), None)

    if told("new_decoder_architecture"):
        return "groups"
    if told("multi_query") is not None:
        return "multi_query" if told("multi_query") else "heads"
    usual = "heads" if member == "query_key_value" else ""
    return {"minimax": "heads", "codegen": "unknown"}.get(told("model_type"), usual)


def _count(source, names):
    values = (getattr(source, name, None) for name in names)
    return next((v for v in values if type(v) is int and v > 0), None)


def _lines(attention, member):
    """Return the number of output neurons of a projection; None if it does not say."""
    return _count(attention._modules.get(member), ("out_features", "nf"))


def _transposed(owner, shape):
    """Return whether a weight is stored as [in, out]: Conv1D of transformers, or experts that say so."""
    conv = type(owner).__name__ == "Conv1D" and getattr(owner, "nf", None) == shape[-1]
    return conv or (getattr(owner, "is_transposed", False) is True and len(shape) == 3)
