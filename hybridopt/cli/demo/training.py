"""One training loop for every run, and the accuracy after it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .measure import gradient_bytes

__all__ = ["Fit", "accuracy", "fit", "logits"]

WARMUP = 0.1  # share of the steps


@dataclass
class Fit:
    """What a training run left: the loss of every step and the most gradient bytes that were there at once."""

    losses: list[float] = field(default_factory=list)
    gradients: int = 0


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[dict[str, Tensor]],
    steps: int,
    show: Callable[[list[float]], None],
) -> Fit:
    """Train on every batch, the rate rising over the first tenth of the `steps` and falling to zero by the last."""
    done = Fit()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        done.gradients = max(done.gradients, gradient_bytes(model))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        done.losses.append(loss.item())
        show(done.losses)
    return done


@torch.no_grad()
def logits(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> Tensor:
    """Outputs in evaluation mode, [texts, labels]."""
    model.eval()
    return torch.cat([model(**batch).logits for batch in batches])


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of texts whose largest output is that of their label."""
    return (outputs.argmax(-1) == labels).float().mean().item()


def _rate(step: int, steps: int) -> float:
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, max(0, steps - step) / max(1, steps - warmup))
