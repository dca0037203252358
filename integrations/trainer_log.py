"""What a HybridTrainer logs beside what the Trainer logs, or in place of it."""

from typing import Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.optimizer.releases import release_class

__all__ = ["ProbeLog", "with_true_norm"]


class LogsProbes(Protocol):
    """A trainer that has something to log of its probes."""

    def log_probes(self) -> None:
        """Log it."""


class ProbeLog(TrainerCallback):
    """Calls `trainer.log_probes()` whenever the Trainer logs."""

    def __init__(self, trainer: LogsProbes):
        self.trainer = trainer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Log of the probes first.

        Args:
            args: the Trainer's.
            state: the Trainer's.
            control: says whether the Trainer is going to log.
        """
        if control.should_log:
            self.trainer.log_probes()
            control.should_log = True  # what has been logged was not what the Trainer has to log


def with_true_norm(logs: dict[str, float], optimizer: HybridOptimizer | None) -> dict[str, float]:
    """Return what is logged, with the optimizer's own norm where the Trainer has found no gradients and would log 0.

    Args:
        logs: what the Trainer logs.
        optimizer: the one that it uses; None: an optimizer that is not of this library.
    """
    if optimizer is None or "grad_norm" not in logs:
        return logs
    if optimizer.gradients_needed and not release_class(optimizer.release).frees_gradients:
        return logs
    norm = optimizer.grad_norm if optimizer.gradients_needed else None
    others = {key: value for key, value in logs.items() if key != "grad_norm"}
    return others if norm is None else others | {"grad_norm": float(norm)}
