"""Models that see the tokens that they are to predict, which their configuration says."""

from typing import Any

from ....core.errors import HybridOptError, shown

__all__ = ["check_causal"]

BOTH_SIDES = {"is_causal": False, "causal": False, "use_bidirectional_attention": True}  # value that says so
ENCODERS = ("bert-generation",)  # beside those with a masked language model, which transformers has in a table


def check_causal(config: Any) -> None:
    """Raise HybridOptError for a model whose tokens attend to later ones: a loss on the next token is no task for it.

    transformers has a class that continues texts for BERT and its kin, too, which sees both sides all the same unless
    `is_decoder` is set; such a loss falls, since the answer is in the input, and nothing useful is learnt.

    config: of transformers.
    """
    found = _saying(config)
    if found is not None:
        name, value = found
        raise HybridOptError(
            f"model: {config.model_type!r} attends to later tokens ({name}={shown(value)} in its config.json), and so "
            "sees what it is to predict; take a causal model, or learn labels (--task classify)"
        )


def _saying(config: Any) -> tuple[str, Any] | None:
    said = config.to_dict()
    for name, value in BOTH_SIDES.items():
        if said.get(name) is value:
            return name, value
    return ("is_decoder", False) if _encoder(config) else None


def _encoder(config: Any) -> bool:
    """Return whether this is an encoder alone; decoders of other models (BART) set `is_decoder` themselves."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    known = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type in ENCODERS
    return known and config.to_dict().get("is_decoder") is False and not config.is_encoder_decoder
