"""What the trained linear layers of one model have in common: a scheme, its random numbers, inputs that they share."""

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...core.contracts import Activations, stream
from ...core.errors import HybridOptError
from ...core.numerics.uniform import uniform
from .refusals import check_not_repeated, repeats
from .shared_inputs import SharedInputs

__all__ = ["KeptInputs"]


class KeptInputs:
    """Keeps inputs of layers as a scheme says.

    Random numbers are a pure function of the seed, the name of the weight, the step of the optimizer, and how many
    inputs the layer has kept since that step. So a run that is gone on with draws what it would have drawn.

    Args:
        scheme: says what is kept.
        seed: of its random numbers.
    """

    def __init__(self, scheme: Activations, seed: int):
        self.scheme, self._seed = scheme, seed
        self._step, self._counts = 0, dict[str, int]()
        self._shared, self._repeaters = SharedInputs(), list[nn.Module]()

    def look(self, model: nn.Module) -> None:
        """Note which modules of a model may be computed again in the backward pass."""
        self._repeaters = repeats(model)

    def follow(self, optimizer: Optimizer) -> None:
        """Take the steps from an optimizer from now on."""
        self.begin(optimizer)
        turn = _Turn(self)
        optimizer.register_step_post_hook(turn)
        optimizer.register_load_state_dict_post_hook(turn)

    def begin(self, optimizer: Optimizer) -> None:
        """Begin the step that an optimizer takes next."""
        self._step = max((int(group["step"]) for group in optimizer.param_groups), default=0)
        self._counts.clear()

    def of(self, x: Tensor, name: str, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return what is kept of an input: what a layer before has kept of the same tensor, or tensors of its own.

        Args:
            x: [..., in].
            name: of the weight.
            dtype: in which floats are kept.

        Raises:
            HybridOptError: the layer is computed again within a backward pass, or is going to be.
        """
        if not self._counts:
            check_not_repeated(self._repeaters)
        if torch._C._current_graph_task_id() != -1:
            raise HybridOptError(
                f"{name!r} is computed again in the backward pass, and would draw other rows than before; leave out "
                "either checkpointing or activations=..."
            )
        found = self._shared.find(x, dtype)
        if found is None:
            count = self._counts[name] = self._counts.get(name, 0) + 1
            draw = partial(uniform, key=stream(self._seed, name, "rows", self._step), turn=count, device=x.device)
            kept = self.scheme.keep(x.detach().reshape(-1, x.shape[-1]), draw)
            found = [each.to(dtype) if each.is_floating_point() else each for each in kept]
            self._shared.note(x, dtype, found)
        return found


class _Turn:
    """A hook of an optimizer that tells of its steps; in copies of the optimizer it is left behind."""

    def __init__(self, kept: KeptInputs):
        self._kept = weakref.ref(kept)

    def __call__(self, optimizer: Optimizer, *_: Any) -> None:
        kept = self._kept()
        if kept is not None:
            kept.begin(optimizer)
