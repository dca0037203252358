"""Feeds the log and the screen of a run from any Trainer: losses, norms, tokens, speed, and bytes by kind."""

import time
from collections.abc import Callable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from hybridopt.training.watching import memory
from hybridopt.training.watching.gradients import GradientWatch
from hybridopt.training.watching.log import LogFile
from hybridopt.training.watching.noise import NoiseWatch
from hybridopt.training.watching.screen import Screen
from hybridopt.training.watching.speed import Stopwatch

from .trainer import HybridTrainerMixin
from .trainer_ranks import trains_sharded

__all__ = ["Watching", "watch"]

RENAMED = {"learning_rate": "lr"}
LEFT_OUT = ("num_tokens", "num_input_tokens_seen", "eval_num_tokens")  # they count a probed batch twice, or padding
FIXED = ("weights_bytes", "quantization_bytes")
END, EVAL = "train_runtime", "eval_"  # in what the Trainer logs last, and of evaluations


def watch(
    trainer: HybridTrainerMixin,
    log: LogFile | None,
    screen: Screen | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> "Watching":
    """Write and show records of a Trainer's run, in place of the Trainer's own bar and lines.

    Args:
        trainer: any Trainer with the `HybridTrainerMixin`.
        log: gets the records; None: another process of the run writes them.
        screen: shows them; None: nobody looks.
        clock: returns seconds.

    Returns:
        The callback, whose `measured` says after training what to write into plan.json.
    """
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    trainer.add_callback(found := Watching(trainer, log, screen, clock))
    return found


class Watching(TrainerCallback):
    """Writes a record of all that is known whenever a Trainer logs, and shows it; made by `watch`.

    While it trains, `logging_nan_inf_filter` is off, so that a loss that is no number is told as such. When a run is
    resumed, the log loses the records after the checkpoint, and tokens and seconds go on from there.

    Args:
        trainer: as of `watch`, and so are the others.
        log: gets the records.
        screen: shows them.
        clock: returns seconds.
    """

    def __init__(
        self, trainer: HybridTrainerMixin, log: LogFile | None, screen: Screen | None, clock: Callable[[], float]
    ) -> None:
        self.trainer, self.log, self.screen, self._clock = trainer, log, screen, clock
        self._watch = Stopwatch(clock=clock)
        self._gradients = GradientWatch()
        self._noise = NoiseWatch(self._gradients.norm)
        self._fixed: dict[str, int] = {}  # bytes of the weights
        self._most: dict[str, int] = {}  # bytes of gradients and state at their largest
        self._waiting: dict[str, Any] = {}  # what is logged of a step before its loss is
        self._before = 0  # tokens of the run so far that trainer.tokens_seen does not have
        self._last = 0, 0.0  # tokens, and seconds of training, at the last record
        self._evaluated = 0  # batches of the evaluation that is going on

    @property
    def measured(self) -> dict[str, Any]:
        """Return what was measured of the whole run: bytes by kind at their largest, the peak, tokens and seconds.

        peak_bytes is torch's own on a GPU; on a CPU it is the largest resident set of the process, which includes
        Python, all libraries and whatever was there before training.
        """
        held = memory.held(self.trainer.args.device)
        seconds = {"seconds": self._watch.seconds, "training_seconds": self._watch.training}
        return {
            **_some(peak_bytes=held.get("peak_bytes"), tokens=self._tokens()),
            **self._fixed,
            **self._most,
            **seconds,
            **_some(noise_examples=self._noise.found()),
        }

    def on_train_begin(self, args: Arguments, state: State, control: Control, **kwargs: Any) -> None:
        """Go on where the log ends, and count the bytes of the weights.

        Args:
            args: the Trainer's.
            state: the Trainer's; tells from which step training is resumed.
            control: the Trainer's.
            kwargs: the Trainer's; model and optimizer among them.
        """
        args.logging_nan_inf_filter = False
        memory.reset_peak(args.device)
        log = self.log if state.is_world_process_zero else None
        last = {} if log is None else log.truncate_after(state.global_step)
        self._watch = Stopwatch(last.get("seconds", 0.0), self._clock)
        self._before = last.get("tokens", 0) - self.trainer.tokens_seen.count
        self._last = last.get("tokens", 0), 0.0
        bytes_now = memory.measured(kwargs["model"])
        self._fixed = {key: bytes_now[key] for key in FIXED}
        self._gradients.begin(_bare(kwargs["optimizer"]))
        batch = args.per_device_train_batch_size
        batch *= args.world_size if trains_sharded(self.trainer) else 1  # shards are added up after every pass
        self._noise.begin(batch, args.gradient_accumulation_steps, state.max_steps)
        if self.screen is not None:
            self.screen.expect(state.max_steps)

    def on_pre_optimizer_step(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Count the gradients, which are all there now."""
        self._gradients.count()

    def on_substep_end(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Take norms, and count gradients that are held until the last of several passes, if others are freed."""
        self._noise.passed(state.global_step)
        if self._gradients.freed_at_once:
            self._gradients.count()

    def on_step_end(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Note that a step is done."""
        self._noise.stepped()
        self._watch.mark()
        if self.screen is not None:
            self.screen.step(state.global_step)

    def on_epoch_end(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Note that an evaluation or a checkpoint may follow."""
        self._watch.mark()

    def on_prediction_step(
        self, _args: Any, _state: Any, _control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        """Show how far an evaluation is."""
        self._evaluated += 1
        if self.screen is not None:
            total = len(eval_dataloader) if isinstance(eval_dataloader, Sized) else None
            self.screen.evaluating(self._evaluated, total)

    def on_evaluate(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Leave the evaluation out of the seconds of training."""
        self._evaluated = 0
        self._watch.pause()

    def on_save(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Leave the checkpoint out of the seconds of training."""
        self._watch.pause()

    def on_train_end(self, _args: Arguments, state: State, _control: Control, **_: Any) -> None:
        """Take the hooks off the parameters."""
        self._gradients.end()

    def on_log(
        self, args: Arguments, state: State, control: Control, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write and show a record.

        Args:
            args: the Trainer's.
            state: the Trainer's.
            control: the Trainer's.
            logs: what the Trainer logs: of a step, of an evaluation, or of the whole run at its end.
            kwargs: the Trainer's; the optimizer among them.
        """
        found = {RENAMED.get(key, key): x for key, value in (logs or {}).items() if (x := _plain(value)) is not None}
        found = {key: value for key, value in found.items() if key not in LEFT_OUT}
        evaluation = any(key.startswith(EVAL) for key in found)
        if "loss" not in found and not evaluation and END not in found:
            self._waiting |= found  # a record is to follow, of the same step
            return
        record = {"step": state.global_step, **_some(epoch=state.epoch), "seconds": round(self._watch.seconds, 3)}
        tokens = self._tokens()
        if "loss" in found:
            found = self._waiting | found
            self._waiting = {}
            record |= found | _some(tokens=tokens) | self._speed(tokens) | self._bytes(_bare(kwargs["optimizer"]))
        else:
            record |= found | _some(tokens=tokens) | memory.held(args.device)
        if self.log is not None and state.is_world_process_zero:
            self.log.append(record)
            if self.screen is not None and END not in found:
                self.screen.show(record)

    def _speed(self, tokens: int | None) -> dict[str, float]:
        """Return the tokens a second since the last record of a step."""
        seconds, (before, since) = self._watch.training, self._last
        if tokens is None or seconds <= since or tokens <= before:
            return {}
        self._last = tokens, seconds
        return {"tokens_per_second": round((tokens - before) / (seconds - since), 2)}

    def _bytes(self, optimizer: torch.optim.Optimizer) -> dict[str, int]:
        """Return what is held, and of that the weights, the gradients at their largest since then, and the state."""
        changing = {"gradients_bytes": self._gradients.take(), "state_bytes": memory.state_bytes(optimizer)}
        changing |= memory.near(self.trainer.model)
        self._most = {key: max(size, self._most.get(key, 0)) for key, size in changing.items()}
        return {**memory.held(self.trainer.args.device), **self._fixed, **changing}

    def _tokens(self) -> int | None:
        """Return the tokens of the run so far, of all processes; None where nobody has counted them."""
        if not self.trainer.tokens_seen.known:
            return self.trainer.state.num_input_tokens_seen or None
        own = torch.tensor([self.trainer.tokens_seen.count], device=self.trainer.args.device)
        return self._before + int(self.trainer.accelerator.gather(own).sum())


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer in accelerate's container, if any."""
    return getattr(optimizer, "optimizer", optimizer)


def _plain(value: Any) -> Any:
    """Return a number, text, or number in a tensor as it is written; None for all else."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    return value if isinstance(value, str | int | float) else None


def _some(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
