"""A wrapped model that can be saved, and go on as it was."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from .core.contracts import Activations
from .model.activations.partial_inputs import PartialInputs
from .model.base_record import Origin
from .model.containers import uncompiled
from .model.fsdp.sharded_tensors import sharded_tensors
from .optimizer.made_optimizers import MadeOptimizers
from .optimizer.probing.log import settle
from .policy.plan import Plan
from .policy.routes import Ready, Route
from .saving.replay.recording import recorded
from .saving.replay.trajectory import Trajectory
from .saving.save import save, save_whole
from .wrapped import WithOrigin

__all__ = ["Saved"]


class Saved(WithOrigin):
    """A model with its origin, what trains it, and what is written of it.

    Args:
        model: to which the strategy is attached.
        policy: says how parameters are trained, by role and name.
        seed: of every random choice of training.
        origin: what the base model was.
        plan: the policy resolved on the model as it is now; None: it is resolved when needed.
    """

    def __init__(self, model: nn.Module, policy: Ready[Route], seed: int, origin: Origin, plan: Plan | None = None):
        super().__init__(model, policy, seed, origin, plan)
        self._optimizers, self._inputs = MadeOptimizers(), PartialInputs(model)

    @property
    def activations(self) -> Activations | None:
        """What trained linear layers keep of their inputs until the backward pass; None: everything."""
        return self._inputs.scheme

    def keep_activations(self, scheme: str | Activations | None) -> None:
        """Let trained linear layers keep from now on what `scheme` says, given as to `wrap`; None: everything."""
        self._inputs.use(scheme, self.seed, self._optimizers)

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
        settle(
            {n: o.log for n, o in self._optimizers.numbered().items() if o.log is not None},
            sharded_tensors(self.model),
        )

    def recorded(self, changed: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor]) -> Trajectory | None:
        """Return the recorded run from which most of these changed tensors follow; None if none does.

        changed: by name. whole: returns a tensor, sharded or not, in one piece.
        """
        return recorded(self._optimizers, self.base, changed, whole)
