"""A model that stands for another where only its examples are looked at."""

from typing import Any

__all__ = ["stand_in"]

SIZE = 8  # words, width: nothing of it is computed


def stand_in(head: str, labels: int = 0) -> Any:
    """Return a model of a few bytes with the kind of output layer that a task asks for.

    Args:
        head: "causal", "classes" or "score".
        labels: number of the classes.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=SIZE,
        intermediate_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=None,
        num_labels={"score": 1, "classes": labels}.get(head, 2),
    )
    return (LlamaForCausalLM if head == "causal" else LlamaForSequenceClassification)(config)
