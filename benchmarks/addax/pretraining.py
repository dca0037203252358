"""How the model came to be: real text, then labelled reviews under other questions than the task's."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from .data import Review
from .examples import WARM, Examples, asking
from .model import Recipe, answer_loss, network

Losses = Iterator[Callable[[], Tensor]]


def make(recipe: Recipe, tokenizer, texts: list[str], reviews: list[Review], advance: Callable[[], None]) -> nn.Module:
    """Return a model that was trained on texts, and then on labelled reviews.

    Args:
        recipe: sizes and steps.
        tokenizer: of the model.
        texts: unlabelled documents.
        reviews: labelled ones.
        advance: is called after every step.
    """
    model = network(recipe)
    text = windows(tokenizer, texts, recipe.sequence)
    train(model, recipe.lr, recipe.steps, language_losses(model, text, recipe.batch), advance)
    train(model, recipe.warm_lr, recipe.warm_steps, warm_losses(model, tokenizer, reviews, recipe), advance)
    return model


def train(model: nn.Module, lr: float, steps: int, losses: Losses, advance: Callable[[], None]) -> float:
    """Train by AdamW with warmup and cosine.

    Args:
        model: is changed.
        lr: the highest learning rate.
        steps: how many.
        losses: each computes the loss of a step.
        advance: is called after every step.

    Returns:
        The mean of the last fiftieth of the losses.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(optimizer, steps // 20, steps, min_lr_rate=0.1)
    seen = []
    for loss_of in islice(losses, steps):
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seen.append(loss.item())
        advance()
    tail = seen[-max(1, steps // 50) :]
    return sum(tail) / len(tail)


def language_losses(model: nn.Module, windows: Tensor, size: int) -> Losses:
    """Yield next-token losses without end.

    Args:
        model: which computes them.
        windows: token ids [count, sequence].
        size: windows in a batch, taken in random order.
    """
    generator = torch.Generator().manual_seed(0)
    while True:
        for rows in torch.randperm(len(windows), generator=generator)[: len(windows) // size * size].split(size):
            ids = windows[rows].long()
            yield partial(_language_loss, model, ids)


def _language_loss(model: nn.Module, ids: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def warm_losses(model: nn.Module, tokenizer, reviews: list[Review], recipe: Recipe) -> Losses:
    """Return losses of the warm start's questions in turn, without end.

    Args:
        model: which computes them.
        tokenizer: of the model.
        reviews: short labelled ones.
        recipe: says how long a text and how large a batch is.
    """
    asked = [asking(tokenizer, reviews, question, recipe.sequence) for question in WARM]
    return losses_in_turn(model, asked, recipe.warm_batch)


def losses_in_turn(model: nn.Module, asked: list[Examples], size: int) -> Losses:
    """Yield losses of one kind of examples after another, without end.

    Args:
        model: which computes them.
        asked: the examples of each kind.
        size: examples in a batch.
    """
    kinds = [examples.batches(size, seed) for seed, examples in enumerate(asked)]
    while True:
        for batches in kinds:
            yield partial(answer_loss, model, next(batches))


def windows(tokenizer, texts: list[str], sequence: int) -> Tensor:
    """Return the texts on end as token ids [count, sequence].

    Args:
        tokenizer: of the model.
        texts: the documents.
        sequence: tokens of a window; what fills none is left out.
    """
    ids = torch.cat([torch.tensor(tokenizer.encode(text).ids, dtype=torch.int32) for text in texts])
    return ids[: len(ids) // sequence * sequence].view(-1, sequence)
