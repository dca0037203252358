"""One training loop for every run, and the accuracy after it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...training.watching.memory import gradient_bytes

__all__ = ["Fit", "accuracy", "fit", "logits"]

WARMUP = 0.1  # share of the steps


@dataclass
class Fit:
    """The course of a training run.

    Args:
        losses: of every step.
        gradients: bytes of gradients, the most that was there at once.
    """

    losses: list[float] = field(default_factory=list)
    gradients: int = 0


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[dict[str, Tensor]],
    steps: int,
    show: Callable[[list[float]], None],
) -> Fit:
    """Train on every batch once.

    The learning rate rises over the first tenth of the steps to the optimizer's, and falls to zero after the last.

    Args:
        model: returns a loss.
        optimizer: of the model, with the peak learning rate.
        batches: keyword arguments of the model, a step each.
        steps: number of batches.
        show: called with all losses so far after every step.
    """
    done = Fit()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        done.gradients = max(done.gradients, gradient_bytes(model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        done.losses.append(loss.item())
        show(done.losses)
    return done


@torch.no_grad()
def logits(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> Tensor:
    """Return the model's outputs in evaluation mode, [texts, labels]."""
    model.eval()
    return torch.cat([model(**batch).logits for batch in batches])


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Return the share of texts whose largest output is that of their label."""
    return (outputs.argmax(-1) == labels).float().mean().item()


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a step, counted from 0: linear warmup, then linear decay."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, max(0, steps - step) / max(1, steps - warmup))
