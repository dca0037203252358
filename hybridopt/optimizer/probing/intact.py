"""What evaluations must leave as it was: random states, buffers, and everything that a closure must not touch."""

from collections.abc import Mapping

from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.placement.homes import home
from .random_states import RandomStates
from .watch import plain

__all__ = ["Intact", "Left", "advance"]

Left = list[tuple[nn.Module, str, Tensor, Tensor]]  # module, name, buffer, the values that an evaluation has left

RULE = "the closure must only compute and return the loss: no backward, no zero_grad, no step"


class Intact:
    """The state before the first of several evaluations.

    begun: the random states. Buffers are the persistent ones:
    those of modules in training mode (running statistics) are copied, to be put back, and what an evaluation makes of
    them can be kept (`left`); others must not change at all. The rest are caches, which belong to the model.
    """

    def __init__(self, params: Mapping[str, Tensor], root: nn.Module | None):
        self._root, self.begun = root, RandomStates()
        buffers = [] if root is None else list(_buffers(root))
        self._fixed = [(*place, b, _version(b)) for place, b in buffers if not place[0].training]
        self._kept = [(*place, b, b.detach().clone()) for place, b in buffers if place[0].training]
        known = {id(p): name for name, p in self._named().items()}
        self._others = {name: p for name, p in params.items() if id(p) not in known}
        ours = {known.get(id(p), name) for name, p in params.items()}
        self._trained = ours | {name for name, p in self._named().items() if p.requires_grad}
        self._marks = self._now()

    def rewind(self) -> None:
        """Put the random states back."""
        self.begun.set()

    @property
    def moving(self) -> str | None:
        """Return the class of a module whose buffers evaluations move; None: there is none."""
        return type(self._kept[0][0]).__name__ if self._kept else None

    def put_back(self) -> None:
        """Put the buffers of modules in training mode back, into the same tensors."""
        for module, name, buffer, values in self._kept:
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
            buffer.data.copy_(values)  # .data: no new version, as the values are the old ones

    def left(self) -> Left:
        """Return the buffers of modules in training mode, each with a copy of what it has become."""
        now = [(module, name, b, module._buffers.get(name)) for module, name, b, _ in self._kept]
        return [(module, name, b, x.detach().clone()) for module, name, b, x in now if x is not None]

    def check(self) -> None:
        """Raise HybridOptError if parameters, gradients or fixed buffers are not what they were."""
        changes = [*_differences(self._marks, self._now()), *self._changed_buffers()]
        if changes:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise HybridOptError(f"the closure has changed the model: {'; '.join(changes[:3])}{more}; {RULE}")

    def _now(self):
        """Note what must stay: everything of trained parameters; modules may pack or move frozen ones."""
        named = self._others | self._named()
        return {name: _marks(p) if name in self._trained else {} for name, p in named.items()}

    def _named(self):
        return {} if self._root is None else dict(self._root.named_parameters())

    def _changed_buffers(self):
        for module, name, buffer, version in self._fixed:
            if module._buffers.get(name) is not buffer or _version(buffer) != version:
                yield f"buffer {name!r} of a {type(module).__name__}, which is not in training mode, was changed"


def advance(left: Left) -> None:
    """Let buffers become what an evaluation has left: the same tensors, but where shape or dtype are others now."""
    for module, name, buffer, values in left:
        if (buffer.shape, buffer.dtype, buffer.device) == (values.shape, values.dtype, values.device):
            buffer.copy_(values)
        else:
            module._buffers[name] = values


def _buffers(root):
    for module in root.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (module, name), buffer


def _marks(p):
    still = plain(p) and home(p) is None  # whoever fetches a weight moves it
    marks = {"replaced": id(p), "moved": p.data_ptr() if still else 0, "written": _version(p)}
    return marks | {"given another gradient": (id(p.grad), 0 if p.grad is None else _version(p.grad))}


def _version(x):
    return 0 if x.is_inference() else x._version


def _differences(old, new):
    yield from (f"parameter {name!r} was removed" for name in old.keys() - new.keys())
    yield from (f"parameter {name!r} was added" for name in new.keys() - old.keys())
    for name in (name for name in old if name in new):
        how = [text for text, mark in old[name].items() if new[name][text] != mark]
        if how:
            yield f"parameter {name!r} was {how[0]}"
