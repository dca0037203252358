"""One fine-tuning run: train, evaluate, count the bytes."""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from hybridopt.core.errors import HybridOptError

from ..shared.tensor_bytes import bytes_of, state_tensors
from ..shared.timing import clock, summary
from ..shared.wrapped import strategy
from .budget import Budget
from .examples import Examples, Splits, evaluation_batches, training_batches
from .methods import Method
from .task import Task

Batch = dict[str, Tensor]


def run(task: Task, method: Method, mode: str, lr: float, seed: int, data: Path) -> dict:
    """Train once and return quality (None if training diverged), bytes and times.

    Args:
        task: model and schedule.
        method: what trains.
        mode: all weights or LoRA.
        lr: the highest learning rate.
        seed: of the head, adapters, the order and subspaces.
        data: folder of all data.
    """
    budget, examples = task.budget, splits(task, data, seed)
    model = method.wrap(task.model(data, seed), task, mode, seed)
    optimizer = strategy(model).optimizer(lr=lr, weight_decay=budget.weight_decay, clip=clip_of(model, budget))
    torch.manual_seed(seed)
    steps = list(train(model, optimizer, budget, training_batches(examples.train, budget.batch, budget.steps, seed)))
    done = len(steps) == budget.steps
    measured = summary(steps) if steps else {"final_loss": None, "state_bytes": 0}
    return measured | {
        "steps_done": len(steps),
        "validation": evaluate(model, examples.validation, budget) if done else None,
        "test": evaluate(model, examples.test, budget) if done else None,
        "weight_bytes": bytes_of(weight_tensors(model)),
        "planned_state_bytes": strategy(model).report().totals.state_bytes,
    }


@lru_cache(maxsize=4)
def splits(task: Task, data: Path, seed: int) -> Splits:
    """Return the examples of a task, read once in a process."""
    return task.splits(data, seed)


def clip_of(model: nn.Module, budget: Budget) -> float | None:
    """Return the largest norm of gradients; None where the policy takes losses alone, which have none to clip."""
    return budget.clip if strategy(model).optimizer(lr=0.0).gradients_needed else None


def train(model: nn.Module, optimizer, budget: Budget, batches: Iterator[Batch]) -> Iterator[dict]:
    """Yield what each step measured; end before a step whose loss or gradients are not finite.

    Args:
        model: is changed.
        optimizer: of the model.
        budget: the schedule.
        batches: what the model takes, a step each.
    """
    schedule = get_linear_schedule_with_warmup(optimizer, round(budget.warmup * budget.steps), budget.steps)
    model.train()
    for batch in batches:
        start = clock()
        try:
            loss = step(model, optimizer, batch, budget.autocast)
        except HybridOptError as error:
            if "finite" not in str(error):
                raise
            return
        seconds, cpu_seconds = clock() - start
        if not math.isfinite(loss):
            return
        state = bytes_of(state_tensors(optimizer))
        yield {"loss": loss, "seconds": seconds, "cpu_seconds": cpu_seconds, "state_bytes": state}
        schedule.step()


def step(model: nn.Module, optimizer, batch: Batch, autocast: bool) -> float:
    """Take one step by gradients, probes, or both (the longer half of the batch is probed); return the loss.

    Args:
        model: is changed.
        optimizer: of the model.
        batch: what the model takes.
        autocast: compute in bfloat16?
    """
    short = batch
    if optimizer.probes_needed:
        long, short = halves(batch) if optimizer.gradients_needed else (batch, batch)
        value = optimizer.probe(lambda: loss_of(model, long, autocast))
    if optimizer.gradients_needed:
        loss = loss_of(model, short, autocast)
        optimizer.observe(loss.detach())
        loss.backward()
        value = loss.item()
    optimizer.step()
    optimizer.zero_grad()
    return value


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return the longer and the shorter half of a batch."""
    order = batch["attention_mask"].sum(1).argsort(descending=True)
    long, short = ({key: value[rows] for key, value in batch.items()} for rows in order.chunk(2))
    return long, short


def loss_of(model: nn.Module, batch: Batch, autocast: bool) -> Tensor:
    """Return the model's loss.

    Args:
        model: which answers.
        batch: what the model takes.
        autocast: compute in bfloat16?
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return model(**batch).loss


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples, budget: Budget) -> dict[str, float] | None:
    """Return the mean loss, and accuracy (0 to 1) where labels are classes; None where the loss is not finite.

    Args:
        model: which answers.
        examples: of one split.
        budget: precision.
    """
    model.eval()
    right = loss = weight = 0.0
    for batch in evaluation_batches(examples, 64):
        labels = batch["labels"]
        with torch.autocast("cpu", torch.bfloat16, enabled=budget.autocast):
            output = model(**batch)
        classes = labels.dim() == 1
        count = len(labels) if classes else int((labels[:, 1:] != -100).sum())
        right += int((output.logits.argmax(-1) == labels).sum()) if classes else 0
        loss, weight = loss + output.loss.item() * count, weight + count
    if not math.isfinite(loss):
        return None
    return ({"accuracy": right / weight} if classes else {}) | {"loss": loss / weight}


def weight_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield parameters, buffers, and the scales and code books that bitsandbytes keeps beside 4-bit weights."""
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        quantized = getattr(parameter, "quant_state", None)
        for part in (quantized, getattr(quantized, "state2", None)):
            yield from (value for value in vars(part).values() if isinstance(value, Tensor)) if part else ()
