"""What is seen of a placed model where it is called as a whole: who calls it, and whether it writes word by word."""

import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ....core.contracts import Traffic
from ....core.errors import HybridOptError, HybridOptWarning
from ....core.sizes import human
from .copies import Copied

__all__ = ["Calls", "NoReplicas", "refuse_replicas"]

WORDS = 3  # calls with one word each after which it is told what a word takes


class Moving(Protocol):
    """A placed model, as far as it is called as a whole, and tells what it has moved."""

    def begin(self, model: nn.Module) -> None:
        """Look whether its weights are where they were."""

    @property
    def traffic(self) -> Traffic:
        """Return what was moved so far."""


class Calls(Copied):
    """Is called before every forward pass of a model.

    Args:
        placed: its placement.
        known: a tensor of the model.
    """

    def __init__(self, placed: Moving, known: Tensor):
        super().__init__(known)
        self._placed = placed
        self._words, self._told = 0, False
        self._last = 0.0, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse calls of replicas, and tell once what a word takes.

        Args:
            module: the model.
            args: of the call.
            kwargs: of the call.
        """
        if torch.compiler.is_compiling():
            return
        refuse_replicas(module)
        self._placed.begin(module)
        if not self._told:
            self._words = self._words + 1 if _one_word(args, kwargs) else 0
            if self._words:
                self._tell()

    def _tell(self) -> None:
        traffic = self._placed.traffic
        (then, before), self._last = self._last, (time.perf_counter(), traffic.read + traffic.moved)
        now, moved = self._last
        if self._words < WORDS or moved == before:
            return
        self._told = True
        warnings.warn(
            "the layers of this model rest elsewhere, and it writes word by word: every word takes "
            f"{now - then:.2g} s and {human(moved - before)} that are read or copied for it. Write many texts at a "
            "time, or load the model without placement to generate",
            HybridOptWarning,
            stacklevel=2,
        )


def refuse_replicas(module: nn.Module) -> None:
    """Raise HybridOptError where a placed model is called within DataParallel or DistributedDataParallel."""
    active = DistributedDataParallel._get_active_ddp_module() if torch.distributed.is_available() else None
    inside = active is not None and any(each is module for each in active.modules())
    kind = "DataParallel" if module.__dict__.get("_is_replica") else "DistributedDataParallel" if inside else None
    if kind is not None:
        _refuse(kind, type(module).__name__)


class NoReplicas:
    """What DistributedDataParallel asks a model for before it does anything: refused, as weights rest elsewhere.

    Args:
        model: that is placed.
    """

    _NAME = "_ddp_params_and_buffers_to_ignore"

    def __init__(self, model: nn.Module):
        self._model = model
        vars(model)[self._NAME] = self

    def __iter__(self) -> Iterator[str]:
        _refuse("DistributedDataParallel", type(self._model).__name__)
        yield ""

    def remove(self) -> None:
        """Let the model be asked again."""
        if vars(self._model).get(self._NAME) is self:
            del vars(self._model)[self._NAME]

    def __reduce__(self) -> "tuple[type[list[str]], tuple[()]]":  # of copies as well
        return list, ()


def _refuse(kind: str, name: str) -> None:
    raise HybridOptError(
        f"{kind} computes with copies of the weights on several devices, and weights of {name} rest elsewhere, for "
        f"one device; leave {kind} out (CUDA_VISIBLE_DEVICES=0), or placement",
        "placement",
    )


def _one_word(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    first = next((x for x in given if isinstance(x, Tensor)), None)
    return not torch.is_grad_enabled() and first is not None and first.ndim > 1 and first.shape[1] == 1
