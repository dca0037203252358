"""What a planned model is called with: tokens, no more than it has positions for, and labels of its kind of loss."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.adapters import bare
from ..request import Request
from .model import Subject, skeleton

__all__ = ["check_length", "inputs", "positions", "small", "usual_length"]

USUAL = Request.seq_len
TABLES = ("wpe", "position_embeddings", "position_embedding", "embed_positions", "pos_embed")


def positions(model: nn.Module) -> int | None:
    """Return the tokens for which there are positions, where these lie in a table; None where any number will do."""
    found = []
    for module in model.modules():
        tables = {**module._modules, **module._buffers}
        found += [_rows(tables[name]) for name in TABLES if name in tables]
    return min((rows for rows in found if rows), default=None)


def usual_length(model: nn.Module) -> int:
    """Return the tokens of a sequence where nobody says: 2048, or as many as there are positions for."""
    return min(USUAL, positions(model) or USUAL)


def small(source: Subject) -> nn.Module:
    """Return a model that is not made yet with two of its layers, not quantized; raise as `skeleton` does."""
    settings = {name: value for name, value in source.settings.items() if name != "quantization_config"}
    return skeleton(replace(source, settings=settings), Request(), min(2, source.depth))


def check_length(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Raise HybridOptError for more tokens than positions, which not every model refuses when it has no values."""
    limit, tokens = positions(model), inputs.get("input_ids")
    if limit is not None and tokens is not None and tokens.shape[-1] > limit:
        raise HybridOptError(
            f"seq_len={tokens.shape[-1]} is not allowed: {type(bare(model)).__name__} has {limit} positions; give "
            f"seq_len={limit} (--seq-len {limit}) or less"
        )


def inputs(model: nn.Module, batch: int, seq_len: int) -> dict[str, Tensor]:
    """Return token ids and labels on the meta device, by the names of the model's arguments.

    There is a label for each token, or for each sequence where the model classifies these.

    Args:
        model: planned, with adapters or without.
        batch: sequences.
        seq_len: tokens of each.
    """
    tokens = torch.empty(batch, seq_len, dtype=torch.long, device="meta")
    labels = _classes(bare(model).config, batch) if _classifies(model) else tokens.clone()
    return {"input_ids": tokens, "labels": labels}


def _rows(table) -> int:
    """Return the positions of a table, some of which begin behind rows for padding; 0 for what is no table."""
    if isinstance(table, nn.Embedding):
        padding = 0 if table.padding_idx is None else table.padding_idx + 1
        return table.num_embeddings - padding - getattr(table, "offset", 0)
    return table.shape[0] if isinstance(table, Tensor) and table.dim() == 2 else 0


def _classifies(model) -> bool:
    inner = bare(model)
    named = type(inner).__name__.endswith(("ForSequenceClassification", "ForNextSentencePrediction"))
    return named and hasattr(getattr(inner, "config", None), "num_labels")


def _classes(config, batch) -> Tensor:
    """Return labels of sequences as transformers wants them: classes, or values of one or several outputs."""
    count = config.num_labels
    kind = config.problem_type or ("regression" if count == 1 else "single_label_classification")
    if kind == "single_label_classification":
        return torch.empty(batch, dtype=torch.long, device="meta")
    shape = (batch,) if count == 1 and kind == "regression" else (batch, count)
    return torch.empty(shape, dtype=config.dtype or torch.float32, device="meta")
