"""A transformers `Trainer` of a model that DDP has no part in: it is sharded, or takes no gradients."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import distributed, nn
from transformers import Trainer

from hybridopt.core.collective_errors import meeting
from hybridopt.core.errors import HybridOptError
from hybridopt.model.fsdp.sharded_tensors import is_sharded
from hybridopt.saving.checkpoint import SHARDS, read_optimizer, read_weights, write_weights_and_optimizer

from .trainer_norms import bare
from .trainer_whole import read_whole_weights

__all__ = ["OnRanks", "trains_sharded"]

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # as the Trainer calls them

if TYPE_CHECKING:
    Mixed: TypeAlias = Trainer  # with which the mixin is mixed: what it calls is there
else:
    Mixed = object


def trains_sharded(trainer: Any) -> bool:
    """Return whether the model of a trainer is sharded by `fully_shard`."""
    return any(is_sharded(p) for p in trainer.model.parameters())


class OnRanks(Mixed):
    """Makes any Trainer run models that are sharded (FSDP2), and replicas that take no gradients.

    accelerate shards on GPUs only, where it has the optimizer made before, and puts DDP around everything else, which
    takes neither. So a model that `fully_shard` was called on is left as it is, and one that TrainingArguments(fsdp)
    want to be sharded is sharded here, by accelerate's own function, before the optimizer is made. Checkpoints of
    shards are written by all ranks, and read by as many as there are; those of one process are read, too.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Make the Trainer's Accelerator, which leaves such a model as it is."""
        super().create_accelerator_and_postprocess()
        prepare = self.accelerator.prepare

        def in_place(*things: Any, **how: Any) -> Any:
            model = vars(self).get("model")
            if not any(thing is model for thing in things) or not self._is_left():
                return prepare(*things, **how)
            found = tuple(self._left(thing) for thing in things)
            return found if len(found) > 1 else found[0]

        self.accelerator.__dict__["prepare"] = in_place

    def _shard_as_asked(self) -> None:
        """Shard the model as accelerate would, if the arguments or the launcher say so and it is not sharded yet."""
        plugin = _plugin(self)
        if plugin is None or self.args.world_size == 1 or trains_sharded(self):
            return
        if plugin.fsdp_version != 2:
            raise HybridOptError("FSDP 1 hides the parameters in flat ones; take fsdp_config={'version': 2}")
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        own = self.accelerator
        told = {name: vars(own).get(name) for name in ("torch_device_mesh", "parallelism_config")}
        told |= {"mixed_precision": own.mixed_precision, "device": own.device}
        state = SimpleNamespace(fsdp_plugin=plugin)
        fsdp2_prepare_model(SimpleNamespace(state=state, is_main_process=own.is_main_process, **told), self.model)

    def _is_left(self) -> bool:
        """Return whether the model stays as it is."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return False
        return trains_sharded(self) or not any(p.requires_grad for p in self.model.parameters())

    def _left(self, thing: Any) -> Any:
        if thing is not self.model:
            return self.accelerator.prepare_optimizer(thing)
        if not trains_sharded(self):
            _same_weights_(thing)
        return self.accelerator.prepare_model(thing, device_placement=False, evaluation_mode=True)

    # ---- checkpoints of shards

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as the Trainer does; of a sharded model what `model.hybrid.save_pretrained` saves, and the tokenizer.

        All ranks call this. For checkpoints (`_internal_call`) shards are written beside the optimizer's instead.

        Args:
            output_dir: the folder; None: that of the run.
        """
        if not trains_sharded(self):
            super().save_model(output_dir, _internal_call)
        elif output_dir is None or not _internal_call:  # push_to_hub is an internal call, too, and names no folder
            folder = output_dir or self.args.output_dir
            self.model.hybrid.save_pretrained(folder)
            if self.processing_class is not None and self.args.should_save:
                self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not trains_sharded(self):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights_and_optimizer(
            folder, self.model, bare(self.optimizer), folder / OPTIMIZER if self.args.should_save else None
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._shard_as_asked()
        if self._is_plain(Path(resume_from_checkpoint)):  # else with the optimizer's state, when it is made
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._is_plain(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        optimizer: Any = bare(self.optimizer)
        self._read_weights(folder)
        if _has_shards(folder):
            read_optimizer(folder, self.model, optimizer, folder / OPTIMIZER)
        else:
            optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu", mmap=True))
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))

    def _is_plain(self, folder: Path) -> bool:
        """Return whether a Trainer by itself reads a checkpoint: neither the model is sharded, nor what was saved."""
        return not (trains_sharded(self) or _has_shards(folder))

    def _read_weights(self, folder: Path) -> None:
        (read_weights if _has_shards(folder) else read_whole_weights)(folder, self.model)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if self._is_plain(best):
            super()._load_best_model()
        else:
            self._read_weights(best)


def _has_shards(folder: Path) -> bool:
    """Return whether a checkpoint was written by the ranks of a sharded model."""
    return (folder / SHARDS).is_dir()


def _plugin(trainer: Any) -> Any:
    """Return accelerate's settings of FSDP that a trainer was started with; None: it is not to shard."""
    there = vars(trainer.accelerator.state).get("fsdp_plugin")
    given = vars(trainer.args).get("fsdp_plugin_args")
    if there is not None or given is None:
        return there
    from accelerate.utils import FullyShardedDataParallelPlugin  # which accelerate ignores without GPUs

    return FullyShardedDataParallelPlugin(**given)


def _same_weights_(model: nn.Module) -> None:
    """Give all processes the weights of the first, as DDP does."""
    with torch.no_grad(), meeting("have the same weights"):
        for x in (*model.parameters(), *model.buffers()):
            distributed.broadcast(x.data, 0)
