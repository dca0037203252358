"""One pre-training run of a small Llama: build, train, evaluate, count the bytes."""

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_with_min_lr_schedule_with_warmup

from hybridopt import HybridOptimizer

from ..shared.tensor_bytes import bytes_of, state_tensors
from ..shared.timing import clock, summary
from ..shared.wrapped import strategy
from .budget import Budget
from .methods import Method
from .search import Cell
from .text import Text, batches

KEPT = 20  # losses of a run that its record holds


def build(budget: Budget, seed: int) -> nn.Module:
    """Return a Llama with random float32 weights."""
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
            # for windows this short the plain formula is a fifth faster on a CPU
            attn_implementation="eager" if budget.device == "cpu" else "sdpa",
        )
    )
    return model.to(budget.device)


def prepared(method: Method, cell: Cell, budget: Budget) -> tuple[nn.Module, HybridOptimizer]:
    """Return a new model that is wrapped, and its optimizer.

    Args:
        method: what trains.
        cell: learning rate, factor on that of embeddings and output layer, seed and steps.
        budget: model, clipping, decay and windows.
    """
    model = build(budget, cell.seed).to(getattr(torch, method.weights))
    method.wrap(model, cell, budget.update_gap(cell.steps))
    optimizer = strategy(model).optimizer(
        lr=cell.lr, weight_decay=budget.weight_decay, nonfinite="skip", clip=budget.clip
    )
    return model, optimizer


def run(method: Method, cell: Cell, budget: Budget, text: Text) -> dict:
    """Train once and return losses (None if training diverged), bytes and times.

    Args:
        method: what trains.
        cell: learning rate, factor, seed and steps.
        budget: model and schedule.
        text: token ids.
    """
    model, optimizer = prepared(method, cell, budget)
    planned = strategy(model).report().totals.state_bytes
    order = batches(text.train, budget.batch, cell.steps, cell.seed)
    steps = list(train(model, optimizer, budget, cell.steps, order))
    done = len(steps) == cell.steps
    measured = summary(steps)
    full = cell.steps == budget.full_steps
    return measured | {
        "choosing_loss": finite(evaluate(model, text.choosing, budget)) if done else None,
        "reporting_loss": finite(evaluate(model, text.reporting, budget)) if done and full else None,
        "final_loss": finite(measured["final_loss"]),
        "steps_done": len(steps),
        "losses": [round(step["loss"], 4) for step in steps[:: max(1, cell.steps // KEPT)]],
        "planned_state_bytes": planned,
        "weight_bytes": bytes_of(iter(model.parameters())),
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_bytes": torch.cuda.max_memory_allocated() if budget.device == "cuda" else None,
        "text": text.digest,
    }


def finite(loss: float) -> float | None:
    """Return the loss, or None where there is no number that JSON can hold."""
    return loss if math.isfinite(loss) else None


def train(
    model: nn.Module, optimizer: HybridOptimizer, budget: Budget, count: int, order: Iterator[torch.Tensor]
) -> Iterator[dict]:
    """Yield what each step measured; end early after a step whose loss was not finite.

    Args:
        model: is changed.
        optimizer: of the model.
        budget: the schedule.
        count: steps.
        order: batches [size, sequence] of token ids.
    """
    warmup = round(budget.warmup * count)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, count, min_lr_rate=budget.floor)
    if budget.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model.train()
    for ids in order:
        step = train_step(model, optimizer, ids, budget)
        yield step
        if not math.isfinite(step["loss"]):
            return
        schedule.step()


def train_step(model: nn.Module, optimizer: HybridOptimizer, ids: torch.Tensor, budget: Budget) -> dict:
    """Take one step; return its loss, the bytes of state, and the seconds that it and its update took.

    Args:
        model: is changed.
        optimizer: of the model.
        ids: token ids [size, sequence].
        budget: device and precision.
    """
    start = now(budget)
    loss = loss_of(model, ids, budget)
    optimizer.observe(loss.detach())
    loss.backward()
    middle = now(budget)
    optimizer.step()
    optimizer.zero_grad()
    end = now(budget)
    names = ("seconds", "cpu_seconds", "update_seconds", "update_cpu_seconds")
    measured = {"loss": loss.item(), "state_bytes": bytes_of(state_tensors(optimizer))}
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


def cell_of(record: dict) -> Cell:
    """Return the cell of a record."""
    return Cell(*(record[name] for name in asdict(Cell(0, 0, 0, 0))))
