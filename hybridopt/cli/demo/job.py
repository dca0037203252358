"""The demo itself: three runs on the same batches, then the last one through a saved folder and back."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import hybridopt

from . import show, task, threads
from .batches import in_order, shuffled
from .encoder import MODEL, pretrained
from .measure import model_bytes, state_bytes
from .result import Reload, Result, Run, versions
from .setups import SETUPS, Setup
from .training import accuracy, fit, logits

__all__ = ["demo", "reload", "train"]


def demo(folder: Path, seed: int, steps: int, console: Console) -> Result:
    """Run everything and print as it goes; the last model is saved to `folder`, which is made.

    Raises `HybridOptError` where the encoder's package or the standard library's source is missing.
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
    return Result(MODEL, seed, steps, count, seconds, work.data, tuple(runs), back, versions())


def train(setup: Setup, work: task.DemoTask, seed: int, steps: int, bar: Progress) -> tuple[nn.Module, Run]:
    """Train a fresh copy of the encoder as the setup says, and measure it."""
    model = hybridopt.wrap(pretrained(work.labels, seed), seed=seed, **setup.options())
    optimizer = model.hybrid.optimizer(lr=setup.lr)
    report = model.hybrid.report()
    bar.console.print(f"\n[bold]{setup.title}[/bold], peak rate {setup.lr:g}")
    bar.console.print(str(report), markup=False, highlight=False, soft_wrap=True)
    torch.manual_seed(seed)  # dropout
    start = perf_counter()
    done = fit(model, optimizer, shuffled(work.train, steps, seed), steps, _follow(bar, setup, steps, work))
    seconds = perf_counter() - start
    run = Run(
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
    """Save a model, load it onto a fresh base whose classifier was drawn anew, and compare outputs on the test set."""
    before = _outputs(model, work)
    model.hybrid.save_pretrained(folder)
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


def _outputs(model: nn.Module, work: task.DemoTask) -> Tensor:
    return logits(model, in_order(work.test))


def _follow(bar: Progress, setup: Setup, steps: int, work: task.DemoTask) -> Callable[[list[float]], None]:
    job = bar.add_task(setup.title, total=steps, loss="    ", curve="")
    classes = len(work.labels)
    return lambda losses: bar.update(job, completed=len(losses), **show.live(losses, classes))


def _quiet() -> None:
    """Nothing is looked up on the net, and what the libraries say to each other is kept from the terminal."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)  # optional kernels that are not installed
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT asks for it
