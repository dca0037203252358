"""Checkpoints of a transformers `Trainer`: resume from whole ones, with the state that belongs to them, or not at all.

The Trainer writes a checkpoint's files in place, trainer_state.json last, and goes on silently with fresh state where
those of optimizer or schedule are missing.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hybridopt.core.errors import HybridOptError, HybridOptWarning, shown
from hybridopt.core.files import tensors
from hybridopt.core.files.paths import path_of
from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.saving.checkpoint import SHARDS

__all__ = ["ResumeCheck", "Resuming", "check_checkpoint", "last_complete_checkpoint"]

STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
NAME = re.compile(r"checkpoint-(\d+)")
PICKLED = ("*.pt", "*.pth", "*.bin")
AGAIN = "copy the whole checkpoint again, or start without resume_from_checkpoint"

if TYPE_CHECKING:
    Mixed: TypeAlias = Trainer  # with which the mixin is mixed: what it calls is there
else:
    Mixed = object


def last_complete_checkpoint(output_dir: object) -> str:
    """Return the newest checkpoint in a folder that is complete, with a warning where newer ones are not.

    For `trainer.train(resume_from_checkpoint=last_complete_checkpoint(args.output_dir))`; a `HybridTrainer` does so by
    itself for True.

    Raises:
        HybridOptError: there is none, with what is wrong with each.
    """
    folder = path_of(output_dir, "output_dir")
    found = ((NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    numbered = sorted(((int(name[1]), path) for name, path in found if name and path.is_dir()), reverse=True)
    flaws: list[str] = []
    for _, path in numbered:
        flaw = _flaw(path)
        if flaw is None:
            if flaws:
                text = f"{'; '.join(flaws)}: training resumes from {path}"
                warnings.warn(text, HybridOptWarning, stacklevel=3)
            return str(path)
        flaws.append(flaw)
    why = "; ".join(flaws) or "it has none at all"
    raise HybridOptError(f"resume_from_checkpoint=True: {folder} has no complete checkpoint ({why}); start without it")


def check_checkpoint(path: object, whole: bool = True) -> str:
    """Return the path of a checkpoint that can be resumed from, as text; HybridOptError says what is wrong with it.

    Args:
        path: of the checkpoint.
        whole: is everything in files of its own there? FSDP and DeepSpeed keep weights and state elsewhere.
    """
    folder = path_of(path, "resume_from_checkpoint")
    if flaw := _flaw(folder) if whole else _state_flaw(folder):
        raise HybridOptError(
            f"resume_from_checkpoint: {flaw}. Copy the whole checkpoint again, name another one, or start a new run "
            "from its weights without resume_from_checkpoint"
        )
    return str(folder)


class Resuming(Mixed):
    """Makes any Trainer resume from complete checkpoints only."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; True resumes from the newest complete checkpoint, and says which are not.

        Args:
            resume_from_checkpoint: as the Trainer's.
            args: the Trainer's own.
            kwargs: the Trainer's own.

        Raises:
            HybridOptError: a file of the checkpoint is missing or not whole, or its state is of another step.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint not in (None, False):
            elsewhere = self.is_fsdp_enabled or self.is_deepspeed_enabled
            resume_from_checkpoint = check_checkpoint(resume_from_checkpoint, whole=not elsewhere)
        return super().train(resume_from_checkpoint, *args, **kwargs)


class ResumeCheck(TrainerCallback):
    """Refuses to train on with an optimizer or a schedule that did not come from the checkpoint.

    Every `HybridTrainer` has it; give it to any other: `Trainer(..., callbacks=[ResumeCheck()])`.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise HybridOptError where the clocks of optimizer and schedule are not those of the resumed run.

        Args:
            args: those of the Trainer.
            state: of the run.
            control: not read.
            kwargs: what the Trainer tells its callbacks, such as "optimizer" and "lr_scheduler".
        """
        given, scheduler = kwargs.get("optimizer"), kwargs.get("lr_scheduler")
        optimizer = getattr(given, "optimizer", given)  # in accelerate's container
        if not isinstance(optimizer, HybridOptimizer) or not state.global_step:
            return
        clock, step = optimizer.param_groups[0]["step"], state.global_step
        skips = optimizer.nonfinite == "skip" or args.fp16  # then the Trainer counts steps that nobody made
        if clock != step and not (skips and 0 < clock < step):
            raise HybridOptError(
                f"the checkpoint is of step {step}, and the optimizer has taken {clock} steps: its {OPTIMIZER} is "
                f"missing or of another checkpoint; {AGAIN}"
            )
        if getattr(scheduler, "last_epoch", None) == 0:
            raise HybridOptError(
                f"the checkpoint is of step {step}, and the learning rate's schedule begins anew: its {SCHEDULER} is "
                f"missing; {AGAIN}"
            )


def _flaw(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is."""
    if flaw := _state_flaw(folder):
        return flaw
    try:
        return next(_flaws(folder), None)
    except (HybridOptError, OSError) as error:
        return f"{folder} cannot be read: {error}"


def _state_flaw(folder: Path) -> str | None:
    """Return what is wrong with the file that the Trainer writes last."""
    if not folder.is_dir():
        return f"{folder} is no checkpoint: there is no such folder"
    try:
        state = json.loads((folder / STATE).read_bytes())
        step = state["global_step"]
    except FileNotFoundError:
        return f"{folder} has no {STATE}, which is written last: saving it was interrupted"
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return f"{folder / STATE} cannot be read ({type(error).__name__}: {str(error)[:100]})"
    name = NAME.fullmatch(folder.name)
    if type(step) is not int or (name and int(name[1]) != step):
        return f"{folder / STATE} is of step {shown(step)}"
    return None


def _flaws(folder: Path) -> Iterator[str]:
    weights = [*folder.glob("*.safetensors"), *folder.glob("*/adapter_model.safetensors")]
    for file in weights:
        tensors.names(file, "the weights")  # compares the header with the length of the file
    for index in folder.glob("*.safetensors.index.json"):
        named = set(json.loads(index.read_bytes()).get("weight_map", {}).values())
        yield from (f"{folder} has no {name}, which {index.name} names" for name in named - {w.name for w in weights})
    for name in (OPTIMIZER, SCHEDULER):
        if not (folder / name).is_file():
            yield f"{folder} has no {name}, as save_only_model=True leaves it: training would go on with fresh state"
    pickled = [file for pattern in PICKLED for file in folder.glob(pattern)]
    yield from (f"{file} is not whole" for file in pickled if not _is_whole(file))
    shards = (folder / SHARDS / ".metadata").is_file()
    if not shards and not weights and not any(file.name.startswith("pytorch_model") for file in pickled):
        yield f"{folder} has no weights"


def _is_whole(file: Path) -> bool:
    """Return whether a file of torch.save has its end, the directory of all that is in it, and all of that."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, EOFError):
        return False
