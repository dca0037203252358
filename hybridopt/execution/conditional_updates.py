"""Updates that a flag on the device can undo: what they write is kept, and put back where the flag is False."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ..core.contracts import CodedWeight
from ..policy.job import BASIS

__all__ = ["guarded", "kept", "plain_tensors", "put_back_", "state_of", "written"]


def guarded(sound: Tensor | None, tensors: Callable[[], Iterable[Tensor]]) -> AbstractContextManager[None]:
    """Leave tensors as they are, whatever is written to them within this context, if a flag turns out to be False.

    The host does not wait for the flag. NaN in what was written does not matter.

    Args:
        sound: bool [] on their device; None: it is True, and nothing is copied.
        tensors: returns all that is written; not called without a flag, so that others do not pay for it.
    """
    return nullcontext() if sound is None else _guarded(sound, tensors())


@contextmanager
def _guarded(sound: Tensor, tensors: Iterable[Tensor]) -> Iterator[None]:
    before = kept(sound, tensors)
    yield
    put_back_(sound, before)


def kept(sound: Tensor | None, tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return tensors, each with a copy of it, for `put_back_`; none without a flag."""
    return [] if sound is None else [(x, x.clone()) for x in tensors]


def put_back_(sound: Tensor | None, before: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write copies back to their tensors where a flag is False; arguments as in `kept`, and what it has returned."""
    if sound is not None:
        for x, old in before:
            x.copy_(torch.where(sound, x, old))


def written(param: Tensor, raw: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the plain tensors that an update writes: the weight, or the parts of its codes, and its state."""
    return [*plain_tensors(param), *state_of(raw)]


def state_of(raw: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the raw tensors that an update writes: all but the split's, which are drawn before it."""
    return [x for name, x in raw.items() if not name.startswith(BASIS)]


def plain_tensors(param: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors that a weight consists of: itself, or the parts of its codes."""
    return tuple(param.parts().values()) if isinstance(param, CodedWeight) else (param,)
