"""One fine-tuning run of the Addax benchmark: probes and gradients by length, and the curve."""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..shared.timing import clock
from .arms import Arm, Setting
from .examples import Examples
from .memory import memory_of
from .model import answer_logits
from .search import quality
from .stepping import steps_of, train_step
from .task import Budget, Task


def run(arm: Arm, setting: Setting, seed: int, budget: Budget, task: Task) -> dict:
    """Train once.

    Args:
        arm: what trains.
        setting: learning rate and alpha.
        seed: of batches and directions.
        budget: steps and evaluations.
        task: splits, and the model to begin with.

    Returns:
        Bytes, the curve of validation, the test accuracy of the weights that did best on it, and CPU seconds.
    """
    memory = memory_of(arm, setting, budget, task)
    model = deepcopy(task.model).train()
    optimizer = arm.optimizer(model, *setting, seed)
    kept = Best(model, task)
    every = budget.steps // budget.evaluations
    spent = 0.0
    kept.look(0, 0.0)
    for done, batches in enumerate(steps_of(arm, seed, budget, task), 1):
        start = clock()[1]
        loss = train_step(model, optimizer, *batches)
        spent += clock()[1] - start
        if not math.isfinite(loss):
            break
        if done % every == 0:
            kept.look(done, spent)
    return (
        memory | kept.result(budget) | {"cpu_seconds": spent, "steps_done": done, "diverged": not math.isfinite(loss)}
    )


class Best:
    """Looks at validation now and then, and keeps the weights that did best."""

    def __init__(self, model: nn.Module, task: Task):
        self.model, self.task = model, task
        self.curve: list[dict] = []
        self.weights: dict[str, Tensor] = {}

    def look(self, step: int, spent: float) -> None:
        """Evaluate after `step` steps, which took `spent` seconds of the processor."""
        found = evaluate(self.model, self.task.validation)
        self.curve.append({"step": step, "cpu_seconds": spent, **found})
        if quality(found) == max(map(quality, self.curve)):
            self.weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def result(self, budget: Budget) -> dict:
        """Return the curve, its best point, and the test accuracy there: of all, of the short and of the long."""
        best = max(self.curve, key=quality)
        self.model.load_state_dict(self.weights, strict=False)
        return {"curve": self.curve, "validation": best, "test": test(self.model, self.task, budget)}


def test(model: nn.Module, task: Task, budget: Budget) -> dict[str, float]:
    """Return test accuracy (0..1) of all, of the short and of the long.

    Args:
        model: which answers.
        task: whose test split.
        budget: says what long is.
    """
    short, long = task.test.up_to(budget.threshold)
    found = [evaluate(model, part)["accuracy"] for part in (short, long)]
    whole = (found[0] * len(short) + found[1] * len(long)) / len(task.test)
    return {"all": whole, "short": found[0], "long": found[1]}


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples) -> dict[str, float]:
    """Return accuracy (0..1) and mean loss; a batch holds examples of similar length."""
    right, loss = 0, 0.0
    for rows in examples.lengths.argsort().split(32):
        batch = examples[rows]
        logits = answer_logits(model, batch)
        right += int((logits.argmax(1) == batch.labels).sum())
        loss += nn.functional.cross_entropy(logits, batch.labels, reduction="sum").item()
    return {"accuracy": right / len(examples), "loss": loss / len(examples) if math.isfinite(loss) else 1e9}
