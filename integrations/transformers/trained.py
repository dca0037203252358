"""A task as a transformers `Trainer` does it, mixed with what makes it run any policy."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor, nn

from hybridopt.core.contracts import TrainingJob, TrainingTask
from hybridopt.core.errors import HybridOptError
from hybridopt.core.launch_environment import world
from hybridopt.core.registry import title
from hybridopt.model.fsdp.sharded_tensors import is_sharded
from hybridopt.training.config.run import AUTO, Run

from .arguments import arguments, optimizer_options
from .reached import reaches_all

__all__ = ["TrainerTask"]


class TrainerTask(TrainingTask):
    """A task that a class of trainers does. What is special to it is given by the methods that subclasses have."""

    def losses(self, format: str) -> tuple[str, ...]:
        """Return what `data.loss_on` may say beside "auto" for examples of a format."""
        return ()

    def check(self, run: Run, format: str) -> None:
        """Raise HybridOptError for a run of which the trainer could not do all that is asked.

        Args:
            run: what is asked.
            format: of the examples.
        """
        name, data = title(type(self)), run.data
        if format not in self.formats:
            raise HybridOptError(
                f"task={name!r} learns from {' or '.join(self.formats)}, and the data is {format!r}; take another "
                "task, or name its columns in data.columns"
            )
        if run.parallel == "fsdp" and world().size > 1 and not self.shards:
            raise HybridOptError(
                f"parallel: fsdp is not for task {name!r}, whose trainer copies the model or writes answers with it; "
                "take parallel: ddp"
            )
        if data.packing is True and not self.packs:
            raise HybridOptError(f"data.packing=true: task {name!r} has no packing; write data.packing: false")
        if data.loss_on != AUTO and data.loss_on not in self.losses(format):
            allowed = ", ".join((AUTO, *self.losses(format)))
            raise HybridOptError(
                f"data.loss_on={data.loss_on!r} is not for task {name!r} on {format!r}; allowed: {allowed}"
            )

    @abstractmethod
    def kinds(self) -> tuple[type, type]:
        """Return the classes of the trainer and of its arguments; their library is imported only here."""

    @abstractmethod
    def settings(self, job: TrainingJob) -> dict[str, Any]:
        """Return the trainer's arguments that are not the same for all trainers."""

    def given(self, job: TrainingJob) -> dict[str, Any]:
        """Return what the trainer is given beside model, arguments and examples."""
        return {}

    def examples(self, job: TrainingJob, rows: Any) -> Any:
        """Return a dataset with the columns that the trainer reads."""
        return rows

    def trainer(self, job: TrainingJob) -> Any:
        """Return the trainer; adapters keep the dtype that they have, whatever the trainer would make of them."""
        from transformers import PrinterCallback

        kind, options = self.kinds()
        before = _trainable(job.model)
        with _uncast(job.model):
            trainer = _mixed(kind)(
                model=job.model,
                args=options(**arguments(job) | self.settings(job) | _replicas(job)),
                train_dataset=self.examples(job, job.train),
                eval_dataset=None if job.eval is None else self.examples(job, job.eval),
                processing_class=job.tokenizer,
                callbacks=[*job.callbacks, *_stopping(job)],
                optimizer_options=optimizer_options(job.run),
                **self.given(job),
            )
        _restore_(job.model, before)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def watch(self, trainer: Any, log: Any, screen: Any) -> Any:
        """Write and show records of a trainer's run, and return what has `measured` after it.

        Args:
            trainer: one of this task.
            log: gets the records.
            screen: shows them; None: nobody looks.
        """
        from ..watching import watch

        return watch(trainer, log, screen)


def _replicas(job: TrainingJob) -> dict[str, Any]:
    """Return what DDP is told of a model: to look for parameters without gradients in every step, or not."""
    run: Run = job.run
    if job.rehearsed or world().size == 1 or run.parallel != "ddp" or run.train.checkpointing is True:
        return {}
    return {"ddp_find_unused_parameters": not reaches_all(job.model)}


@cache
def _mixed(kind: type) -> type:
    from ..trainer import HybridTrainerMixin
    from .warmup import FirstStepCounts

    return type(f"Hybrid{kind.__name__}", (HybridTrainerMixin, FirstStepCounts, kind), {})


def _stopping(job: TrainingJob) -> list[Any]:
    from transformers import EarlyStoppingCallback

    patience = job.run.train.early_stopping
    if patience is None or job.eval is None or job.run.train.eval_every is None:
        return []
    return [EarlyStoppingCallback(patience)]


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def _uncast(model: nn.Module) -> Iterator[None]:
    """Keep trainers from casting sharded parameters within, which cannot be undone: they cast what is trained."""
    held = [p for p in model.parameters() if p.requires_grad and is_sharded(p)]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def _restore_(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Undo casts of trainable parameters: TRL makes adapters of a quantized base bfloat16, whatever was planned."""
    for name, p in model.named_parameters():
        if name in before and p.dtype != before[name].dtype:
            p.data = before[name].to(p.device)
