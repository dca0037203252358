"""One fine-tuning run of the Addax benchmark: probes and gradients by length, curves, bytes."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import addax_data as data
import addax_model as models
import torch
from addax_arms import Arm, Setting
from sst2_train import bytes_of, clock, state_tensors
from tensor_bytes import Peak
from torch import Tensor, nn


@dataclass(frozen=True)
class Budget:
    """What every run shares. Half of each split is short reviews, half is long: bundles of them.

    threshold is L_T in tokens; bundle the least and the most reviews in one long text; positive the share of positive
    long ones, and long what they are asked ("same" as the short ones, or "other").
    """

    steps: int = 400
    evaluations: int = 8
    train: int = 2000
    validation: int = 300
    test: int = 1000
    threshold: int = 72
    bundle: tuple[int, int] = (3, 5)
    positive: float = 0.3
    long: str = "same"


TASKS = {"same": Budget(), "other": Budget(positive=0.5, long="other")}


@dataclass(frozen=True)
class Task:
    """The three splits, and the model to begin with."""

    train: data.Examples
    validation: data.Examples
    test: data.Examples
    model: nn.Module


def task_of(folder: Path, place: Path, recipe: models.Recipe, budget: Budget) -> Task:
    """Read the model and the splits; the training reviews are none that the warm start saw the labels of."""
    tokenizer = models.load_tokenizer(place)
    pools = {split: data.reviews(folder, split, recipe.fewest_words) for split in data.SST2}
    pools["train"] = pools["train"][recipe.warm_reviews :]
    splits = [mixed(tokenizer, pool, getattr(budget, split), recipe, budget) for split, pool in pools.items()]
    return Task(*splits, models.load(place, recipe))


def mixed(tokenizer, pool: list[data.Review], count: int, recipe: models.Recipe, budget: Budget) -> data.Examples:
    """Half short reviews with as many of either label, half long ones."""
    half = count // 2
    short = data.asking(tokenizer, data.balanced(pool, half), data.SHORT, recipe.sequence)
    bundles = data.bundles(pool, half, budget.bundle, budget.positive, seed=0)
    return data.joined(short, data.asking(tokenizer, bundles, data.LONG[budget.long], recipe.sequence))


def run(arm: Arm, setting: Setting, seed: int, budget: Budget, task: Task) -> dict:
    """Train once; return the curve, and the test accuracy of the weights that did best on validation."""
    memory = memory_of(arm, setting, budget, task)
    model = deepcopy(task.model).train()
    optimizer = arm.optimizer(model, *setting, seed)
    kept = Best(model, task)
    every = budget.steps // budget.evaluations
    spent = 0.0
    kept.look(0, 0.0)
    for done, batches in enumerate(steps_of(arm, seed, budget, task), 1):
        start = clock()[1]
        loss = train_step(arm, model, optimizer, *batches)
        spent += clock()[1] - start
        if not math.isfinite(loss):
            break
        if done % every == 0:
            kept.look(done, spent)
    return (
        memory | kept.result(budget) | {"cpu_seconds": spent, "steps_done": done, "diverged": not math.isfinite(loss)}
    )


def pools_of(arm: Arm, budget: Budget, task: Task) -> tuple:
    """The examples that gradients and probes come from (None: the arm has none)."""
    short, long = task.train.up_to(budget.threshold)
    pools = {None: None, "all": task.train, "short": short, "long": long}
    return pools[arm.first], pools[arm.zeroth]


def steps_of(arm: Arm, seed: int, budget: Budget, task: Task) -> Iterator[tuple]:
    """The batch for gradients and the batch for probes (None: the arm has none) of each step."""
    first, zeroth = pools_of(arm, budget, task)
    first = first and first.batches(arm.gradients, seed)
    zeroth = zeroth and zeroth.batches(arm.probes, seed + 1000)
    for _ in range(budget.steps):
        yield next(first) if first else None, next(zeroth) if zeroth else None


def train_step(arm: Arm, model: nn.Module, optimizer, first, zeroth) -> float:
    """One step: probes before gradients, as both belong to the same weights. Returns the (first-order) loss."""
    loss = math.nan
    if zeroth:
        loss = optimizer.probe(lambda: models.answer_loss(model, zeroth))
    if first:
        value = models.answer_loss(model, first)
        loss = value.item()
        value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


class Best:
    """Looks at validation now and then, and keeps the weights that did best."""

    def __init__(self, model: nn.Module, task: Task):
        self.model, self.task, self.curve, self.weights = model, task, [], {}

    def look(self, step: int, spent: float) -> None:
        """Evaluate; `spent` are the processor's seconds of training so far."""
        found = evaluate(self.model, self.task.validation)
        self.curve.append({"step": step, "cpu_seconds": spent, **found})
        if quality(found) == max(map(quality, self.curve)):
            self.weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def result(self, budget: Budget) -> dict:
        """The curve, its best point, and the test accuracy there: of all, of the short and of the long."""
        best = max(self.curve, key=quality)
        self.model.load_state_dict(self.weights, strict=False)
        return {"curve": self.curve, "validation": best, "test": test(self.model, self.task, budget)}


def test(model: nn.Module, task: Task, budget: Budget) -> dict[str, float]:
    """Test accuracy (0..1): of all, of the short and of the long."""
    short, long = task.test.up_to(budget.threshold)
    found = [evaluate(model, part)["accuracy"] for part in (short, long)]
    whole = (found[0] * len(short) + found[1] * len(long)) / len(task.test)
    return {"all": whole, "short": found[0], "long": found[1]}


def quality(found: dict) -> tuple[float, float]:
    """What weights and learning rates are chosen by: validation accuracy, then the lower loss."""
    return found["accuracy"], -found["loss"]


@torch.no_grad()
def evaluate(model: nn.Module, examples: data.Examples) -> dict[str, float]:
    """Accuracy (0..1) and mean loss; a batch holds examples of similar length."""
    right, loss = 0, 0.0
    for rows in examples.lengths.argsort().split(32):
        batch = examples[rows]
        logits = models.answer_logits(model, batch)
        right += int((logits.argmax(1) == batch.labels).sum())
        loss += nn.functional.cross_entropy(logits, batch.labels, reduction="sum").item()
    return {"accuracy": right / len(examples), "loss": loss / len(examples) if math.isfinite(loss) else 1e9}


def memory_of(arm: Arm, setting: Setting, budget: Budget, task: Task) -> dict[str, int]:
    """Bytes of a step on the longest examples it can meet.

    saved_bytes is what autograd keeps from forward to backward; step_bytes the most that was allocated within the
    step beyond what was there before (gradients, temporaries, recomputed activations included).
    """
    first, zeroth = pools_of(arm, budget, task)
    first, zeroth = first and first.longest(arm.gradients), zeroth and zeroth.longest(arm.probes)
    model = deepcopy(task.model).train()
    optimizer = arm.optimizer(model, *setting, 0)
    saved = saved_bytes(model, lambda: models.answer_loss(model, first)) if first else 0
    train_step(arm, model, optimizer, first, zeroth)  # state is there from now on
    with Peak("cpu") as peak:
        train_step(arm, model, optimizer, first, zeroth)
    return {
        "saved_bytes": saved,
        "step_bytes": peak.extra,
        "state_bytes": bytes_of(state_tensors(optimizer)),
        "weight_bytes": bytes_of(iter(model.parameters())),
    }


def saved_bytes(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights not counted, each storage once."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        loss_of()
    return bytes_of(tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in known)
