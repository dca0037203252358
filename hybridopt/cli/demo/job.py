"""The demo itself: three runs on the same batches, then the last one through a saved folder and back."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import cast

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import hybridopt

from ...training.watching.memory import model_bytes, state_bytes
from . import show, task, threads
from .batches import in_order, shuffled
from .encoder import MODEL, pretrained
from .result import DemoResult, DemoRun, Reload, versions
from .setups import SETUPS, Setup
from .training import accuracy, fit, logits

__all__ = ["demo", "reload", "train"]


def demo(folder: Path, seed: int, steps: int, console: Console) -> DemoResult:
    """Train in all three ways, then save and reload the last model; print the progress.

    Args:
        folder: where the last model is saved; it is made.
        seed: of held-out modules, classifier, batches and dropout.
        steps: training steps of each run.
        console: where to print.

    Raises:
        HybridOptError: the encoder's package or the standard library's source is missing.
    """
    _quiet()
    start = perf_counter()
    work = task.load(seed)
    count = threads.choose(pretrained(work.labels, seed), next(shuffled(work.train, 1, seed)))
    console.print(f"{show.data_line(work.data)}\nModel: {MODEL}, on {count} CPU thread{'s' * (count > 1)}.")
    runs = []
    with show.progress(console) as bar:
        for setup in SETUPS:
            model, run = train(setup, work, seed, steps, bar)
            runs.append(run)
    console.print(show.curves(runs, len(work.labels)))
    back = reload(model, work, seed, folder)
    seconds = perf_counter() - start
    return DemoResult(MODEL, seed, steps, count, seconds, work.data, tuple(runs), back, versions())


def train(setup: Setup, work: task.DemoTask, seed: int, steps: int, bar: Progress) -> tuple[nn.Module, DemoRun]:
    """Train a fresh copy of the encoder in one way, and measure accuracy, bytes and time.

    Args:
        setup: the way to train.
        work: the texts.
        seed: of classifier, batches and dropout.
        steps: training steps.
        bar: shows the loss, and what is printed appears above it.

    Returns:
        The trained model, and what was measured.
    """
    model = hybridopt.wrap(pretrained(work.labels, seed), seed=seed, **setup.options())
    optimizer = _strategy(model).optimizer(lr=setup.lr)
    report = _strategy(model).report()
    bar.console.print(f"\n[bold]{setup.title}[/bold], peak rate {setup.lr:g}")
    bar.console.print(str(report), markup=False, highlight=False, soft_wrap=True)
    torch.manual_seed(seed)  # dropout
    start = perf_counter()
    done = fit(model, optimizer, shuffled(work.train, steps, seed), steps, _follow(bar, setup, steps, work))
    seconds = perf_counter() - start
    run = DemoRun(
        name=setup.name,
        title=setup.title,
        accuracy=accuracy(_outputs(model, work), work.answers),
        weight_bytes=model_bytes(model),
        grad_bytes=done.gradients,
        state_bytes=state_bytes(optimizer),
        seconds=seconds,
        lr=setup.lr,
        losses=tuple(done.losses),
        report=report.as_dict(),
    )
    return model, run


def reload(model: nn.Module, work: task.DemoTask, seed: int, folder: Path) -> Reload:
    """Save a model, load it onto a fresh base whose classifier was drawn anew, and compare outputs on the test set.

    Args:
        model: trained.
        work: the texts.
        seed: that the model's classifier was drawn from; the fresh one is drawn from the next.
        folder: where to save.
    """
    before = _outputs(model, work)
    _strategy(model).save_pretrained(folder)
    back = hybridopt.from_pretrained(pretrained(work.labels, seed + 1), folder)
    after = _outputs(back, work)
    return Reload(
        folder=str(folder),
        files={f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()},
        predictions=len(before),
        agreeing=int((before.argmax(-1) == after.argmax(-1)).sum()),
        identical=torch.equal(before, after),
        largest_difference=(before - after).abs().max().item(),
    )


def _strategy(model: nn.Module) -> hybridopt.Strategy:
    return cast(hybridopt.Strategy, model.hybrid)


def _outputs(model: nn.Module, work: task.DemoTask) -> Tensor:
    return logits(model, in_order(work.test))


def _follow(bar: Progress, setup: Setup, steps: int, work: task.DemoTask) -> Callable[[list[float]], None]:
    """Add a run to the progress bar; return the function that shows its losses so far."""
    job = bar.add_task(setup.title, total=steps, loss="    ", curve="")
    classes = len(work.labels)
    return lambda losses: bar.update(job, completed=len(losses), **show.live(losses, classes))


def _quiet() -> None:
    """Keep libraries from looking anything up on the net, and their warnings from the terminal."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)  # optional kernels that are not installed
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT asks for it
