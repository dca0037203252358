"""A small causal language model that answers questions about reviews."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from .examples import Examples


@dataclass(frozen=True)
class Recipe:
    """What the model is and how it came to be; the warm start's reviews are those before `warm_reviews`."""

    hidden: int = 128
    layers: int = 2
    intermediate: int = 344
    heads: int = 4
    vocabulary: int = 2048
    sequence: int = 256
    batch: int = 16
    steps: int = 1500
    lr: float = 3e-3
    warm_steps: int = 300
    warm_batch: int = 32
    warm_lr: float = 1e-3
    warm_reviews: int = 20_000
    fewest_words: int = 8


def network(recipe: Recipe) -> LlamaForCausalLM:
    """Return a Llama with random weights; input and output embedding are one."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.sequence,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def answer_logits(model: LlamaForCausalLM, batch: Examples) -> Tensor:
    """Return logits [count, 2] of the two answers after the last token of each example."""
    hidden = model.model(input_ids=batch.ids).last_hidden_state
    last = hidden[torch.arange(len(batch)), batch.lengths - 1]
    return model.lm_head(last).gather(1, batch.answers)


def answer_loss(model: LlamaForCausalLM, batch: Examples) -> Tensor:
    """Return the cross-entropy between the two answers, in fp32."""
    return nn.functional.cross_entropy(answer_logits(model, batch).float(), batch.labels)
