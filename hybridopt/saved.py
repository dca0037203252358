"""A wrapped model that can be saved, and go on as it was."""

from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import Tensor

from .activated import Activated
from .model.containers import uncompiled
from .model.sharding import sharded_tensors
from .optimizer.optimizer import HybridOptimizer
from .optimizer.probing.log import settle
from .saving.replay.recording import recorded
from .saving.replay.trajectory import Trajectory
from .saving.save import save, save_whole

__all__ = ["Saved"]


class Saved(Activated):
    """A model with its origin, and what is written of it; see WithOrigin."""

    _optimizers: WeakKeyDictionary[HybridOptimizer, int]  # counted as they were made

    def save_pretrained(
        self, directory: str | Path, replay: bool = True, full: bool = False, max_shard_size: str | int = "5GB"
    ) -> None:
        """Save adapters, every changed base tensor and the configuration; see `hybridopt.from_pretrained`.

        With `full` it is a complete Hugging Face model folder, which transformers, vLLM and others load as it is.
        Where the model is sharded (`fully_shard`), all ranks have to call this; the first writes.

        Args:
            directory: is made if it is not there.
            replay: save base tensors as the scalars of a run, 4 bytes a step, wherever they follow from them: those
                that an optimizer of this strategy, which must still be there, has trained by losses alone since the
                base. Loading then repeats the run; False saves them as tensors.
            full: save all tensors of a transformers model without adapters, with its configuration; what is kept as
                codes is written as the floats that it stands for. The tokenizer is yours to save.
            max_shard_size: bytes of a file of weights at most, with `full`; a single tensor may be larger.
        """
        with uncompiled(self.model):
            if full:
                save_whole(self, directory, max_shard_size)
            else:
                save(self, directory, replay)

    def push_to_hub(
        self,
        repo_id: str,
        card: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
        replay: bool = True,
        full: bool = False,
    ) -> str:
        """Save as `save_pretrained` does and upload that to the Hugging Face hub; return the address of the commit.

        Args:
            repo_id: "user/name"; the repository is made if it is not there.
            card: text of README.md; None: one that says what is saved, unless the repository has a card.
            private: is a new repository private? None: as the account says.
            revision: the branch; None: main.
            commit_message: of the upload.
            token: of the hub; None: that of `huggingface_hub.login`.
            replay: see `save_pretrained`.
            full: see `save_pretrained`.

        Raises:
            HybridOptError: for a bad name, and if the upload fails.
        """
        from .saving.hub import push

        how = {"private": private, "revision": revision, "commit_message": commit_message, "token": token}
        return push(lambda folder: self.save_pretrained(folder, replay, full), repo_id, card, **how)

    def check_recorded(self) -> None:
        """See to it that logs know whether weights are those that they have left; all ranks have to call this."""
        settle({n: o.log for o, n in self._optimizers.items() if o.log is not None}, sharded_tensors(self.model))

    def recorded(self, changed: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor]) -> Trajectory | None:
        """Return the recorded run from which most of these changed tensors follow; None if none does.

        changed: by name. whole: returns a tensor, sharded or not, in one piece.
        """
        return recorded(self._optimizers, self.base, changed, whole)
