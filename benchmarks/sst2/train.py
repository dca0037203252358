"""One fine-tuning run of all-MiniLM-L6-v2 on SST-2: train, evaluate, count the bytes."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from ..shared.tensor_bytes import bytes_of, state_tensors
from ..shared.timing import clock, summary
from .data import Examples, Splits, evaluation_batches, training_batches
from .methods import Budget, Method
from .model import build, weight_tensors


def run(method: Method, lr: float, seed: int, budget: Budget, splits: Splits, progress: Callable[[], None]) -> dict:
    """Train once and return accuracies, bytes and times.

    Args:
        method: what trains.
        lr: the highest learning rate.
        seed: of the head, the order and subspaces.
        budget: the schedule.
        splits: the data.
        progress: is called after every step.
    """
    model = build(method, seed)
    optimizer = model.hybrid.optimizer(lr=lr, weight_decay=budget.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, round(budget.warmup * budget.steps), budget.steps)
    steps = []
    torch.manual_seed(seed)
    model.train()
    for batch in training_batches(splits.train, budget.batch, budget.steps, seed):
        step = train_step(model, optimizer, batch, budget.autocast)
        steps.append(step | {"state_bytes": bytes_of(state_tensors(optimizer))})
        schedule.step()
        progress()
    return summary(steps) | {
        "validation": evaluate(model, splits.validation, budget.autocast),
        "test": evaluate(model, splits.test, budget.autocast),
        "weight_bytes": bytes_of(weight_tensors(model)),
        "planned_state_bytes": model.hybrid.report().totals.state_bytes,
    }


def train_step(model: nn.Module, optimizer, batch: dict, autocast: bool) -> dict[str, float]:
    """Take one step; return its loss, and the seconds by wall and processor that it and its update took.

    Args:
        model: is changed.
        optimizer: of the model.
        batch: what the model takes.
        autocast: compute in bf16?
    """
    marks = [clock()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(**batch).loss
    loss.backward()
    marks.append(clock())
    optimizer.step()
    optimizer.zero_grad()
    marks.append(clock())
    start, middle, end = marks
    names = ("seconds", "cpu_seconds", "update_seconds", "update_cpu_seconds")
    return {"loss": loss.item(), **dict(zip(names, [*(end - start), *(end - middle)], strict=True))}


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples, autocast: bool) -> dict[str, float]:
    """Return accuracy (0..1) and mean loss.

    Args:
        model: which answers.
        examples: of one split.
        autocast: compute in bf16?
    """
    model.eval()
    right, loss = 0, 0.0
    for batch in evaluation_batches(examples, 64):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(**batch)
        right += int((output.logits.argmax(-1) == batch["labels"]).sum())
        loss += output.loss.item() * len(batch["labels"])
    return {"accuracy": right / len(examples), "loss": loss / len(examples)}
