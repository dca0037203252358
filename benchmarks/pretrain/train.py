"""One pre-training run of a small Llama: build, train, evaluate, count the bytes."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_with_min_lr_schedule_with_warmup

from ..shared.tensor_bytes import bytes_of, state_tensors
from ..shared.timing import clock, summary
from .budget import Budget
from .methods import Method
from .text import Text, batches


def build(budget: Budget, seed: int) -> nn.Module:
    """Return a Llama with random weights."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=budget.vocabulary,
            hidden_size=budget.hidden,
            intermediate_size=budget.intermediate,
            num_hidden_layers=budget.layers,
            num_attention_heads=budget.heads,
            max_position_embeddings=budget.sequence,
            use_cache=False,
        )
    )
    return model.to(budget.device, getattr(torch, budget.weights))


def run(method: Method, lr: float, seed: int, budget: Budget, text: Text) -> dict:
    """Train once and return validation loss (None if training diverged), bytes and times.

    Args:
        method: what trains.
        lr: the highest learning rate.
        seed: of weights, order and subspaces.
        budget: model and schedule.
        text: token ids.
    """
    model = build(budget, seed)
    optimizer = method.optimizer(model, lr, budget.weight_decay, seed, budget.update_gap)
    planned = model.hybrid.report().totals.state_bytes if hasattr(model, "hybrid") else None
    steps = list(train(model, optimizer, budget, batches(text.train, budget.batch, budget.steps, seed)))
    done = len(steps) == budget.steps
    loss = evaluate(model, text.validation, budget) if done else None
    measured = summary(steps)
    return measured | {
        "validation_loss": finite(loss),
        "final_loss": finite(measured["final_loss"]),
        "steps_done": len(steps),
        "losses": [round(step["loss"], 4) for step in steps[:: max(1, budget.steps // 40)]],
        "planned_state_bytes": planned,
        "weight_bytes": bytes_of(iter(model.parameters())),
        "peak_bytes": torch.cuda.max_memory_allocated() if budget.device == "cuda" else None,
        "text": text.digest,
    }


def finite(loss: float | None) -> float | None:
    """Return the loss, or None where there is no number that JSON can hold."""
    return loss if loss is not None and math.isfinite(loss) else None


def train(model: nn.Module, optimizer, budget: Budget, order: Iterator[torch.Tensor]) -> Iterator[dict]:
    """Yield what each step measured; end early after a step whose loss or gradient was not finite.

    Args:
        model: is changed.
        optimizer: of the model.
        budget: the schedule.
        order: batches [size, sequence] of token ids.
    """
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, round(budget.warmup * budget.steps), budget.steps, min_lr_rate=budget.floor
    )
    if budget.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model.train()
    for ids in order:
        step = train_step(model, optimizer, ids, budget)
        yield step
        if not step["sound"]:
            return
        schedule.step()


def train_step(model: nn.Module, optimizer, ids: torch.Tensor, budget: Budget) -> dict:
    """Take one step; return its loss, the bytes of state, and the seconds that it and its update took.

    Args:
        model: is changed.
        optimizer: of the model.
        ids: token ids [size, sequence].
        budget: device and precision.
    """
    start = now(budget)
    loss = loss_of(model, ids, budget)
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    sound = bool((loss.detach() + norm).isfinite())
    middle = now(budget)
    if sound:
        optimizer.step()
    optimizer.zero_grad()
    end = now(budget)
    names = ("seconds", "cpu_seconds", "update_seconds", "update_cpu_seconds")
    measured = {"loss": loss.item(), "sound": sound, "state_bytes": bytes_of(state_tensors(optimizer))}
    return measured | dict(zip(names, [*(end - start), *(end - middle)], strict=True))


def now(budget: Budget) -> np.ndarray:
    """Return seconds [2] by the wall and of the processor, once the device has done what it was given."""
    if budget.device == "cuda":
        torch.cuda.synchronize()
    return clock()


def loss_of(model: nn.Module, ids: torch.Tensor, budget: Budget) -> torch.Tensor:
    """Return the mean cross-entropy of the next token, in nats.

    Args:
        model: which predicts.
        ids: token ids [size, sequence].
        budget: device and precision.
    """
    ids = ids.to(budget.device)
    with torch.autocast(budget.device, torch.bfloat16, enabled=budget.autocast):
        return model(input_ids=ids, labels=ids).loss


@torch.no_grad()
def evaluate(model: nn.Module, rows: torch.Tensor, budget: Budget, size: int = 16) -> float:
    """Return the mean loss over windows.

    Args:
        model: which predicts.
        rows: token ids [count, sequence].
        budget: device and precision.
        size: of a batch.
    """
    model.eval()
    losses = [loss_of(model, part.long(), budget).item() * len(part) for part in rows.split(size)]
    return sum(losses) / len(rows)
