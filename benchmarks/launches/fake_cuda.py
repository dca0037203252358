"""Tensors without memory on a CUDA device that is not there, and a count of what would be asked of it."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

__all__ = ["Counts", "FakeCuda"]

OURS = tuple(f"{Path(str(import_module(name).__file__)).parent}/" for name in ("hybridopt", "hybridopt.integrations"))
COPIES = ("aten::_to_copy", "aten::copy_")
WAITS = ("aten::nonzero", "aten::_linalg_eigh", "aten::_linalg_svd")  # as torch says of the functions that call them
VIEWS = {
    "aten::detach",
    "aten::_unsafe_view",
    "aten::alias",
    "aten::_reshape_alias",
    "aten::lift_fresh",
    "prim::device",
    "prim::layout",
}


@dataclass
class Counts:
    """What was asked of the device, by the kinds of `KINDS`, and where in hybridopt.

    of: how often, by kind. where: by kind and line of hybridopt, the innermost one.
    """

    of: Counter[str] = field(default_factory=Counter)
    where: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        """Count one more."""
        self.of[kind] += 1
        self.where.setdefault(kind, Counter())[place] += 1


class FakeCuda(FakeTensorMode):
    """Run torch on tensors of a device that have no memory, and count what the device would be asked for.

    Kinds: "compiled" calls of compiled functions, "launches" of everything else on the device, "waits" (`.item()`,
    copies to the host, for which the host waits, and operations that wait, `WAITS`), "copies" to the device for which
    it waits, and "sent", those for which it does not. Numbers read from the device are 1.0, True or 0.

    kind: of the device. "cuda" needs a CUDA build of torch; "meta" stands in for it in any build.
    """

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.kind = kind
        self.counts: Counts | None = None
        self.inside = 0
        self.nested = 0  # torch carries out some operations by others, without memory only

    @contextmanager
    def counted(self) -> Iterator[Counts]:
        """Count within this context."""
        self.counts = counts = Counts()
        try:
            yield counts
        finally:
            self.counts = None

    def compiled(self, function: Callable, *_: object, **__: object) -> Callable:
        """Return a stand-in for a compiled function: a call of the function, which counts as one.

        What it does is carried out until it has returned without a tensor, so that it does not matter later.
        """
        silent: list[Any] = []

        def call(*arguments: object) -> Any:
            self._count("compiled", not self.inside)
            if silent:
                return silent[0]
            self.inside += 1
            try:
                out = function(*arguments)
            finally:
                self.inside -= 1
            if not any(isinstance(x, Tensor) for x in tree_leaves(out)):
                silent.append(out)
            return out

        return call

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out one operation without memory; count it."""
        name, kwargs = func._schema.name, kwargs or {}
        if name == "aten::_local_scalar_dense":
            self._count("waits", args[0].device.type == self.kind)
            return _number(args[0].dtype)
        self.nested += 1
        try:
            out = super().dispatch(func, types, args, kwargs)
        finally:
            self.nested -= 1
        if self.counts is not None and not self.nested:
            self._note(func, name, args, kwargs, out)
        return out

    def _note(self, func, name, args, kwargs, out):
        given = [x for x in args if isinstance(x, Tensor)]
        made = next((x for x in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(x, Tensor)), None)
        where = made if made is not None else _first(args)
        if name in COPIES and given:
            to, source = (where if where is not None else given[0]).device.type, given[-1].device.type
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            self._count("waits", (source, to) == (self.kind, "cpu"))
            if (source, to) == ("cpu", self.kind):
                return self._count("copies" if waits else "sent", True)
        self._count("waits", name in WAITS)
        works = not (func.is_view or name in VIEWS or "empty" in name)
        if works and where is not None and where.device.type == self.kind:
            self._count("launches", not self.inside, name)

    def _count(self, kind, counts, name="elsewhere"):
        if counts and self.counts is not None:
            self.counts.add(kind, _place() or name)


def _first(args):
    """Return the first tensor among the arguments, or in the first list among them."""
    flat = [x for one in args for x in (one if isinstance(one, (list, tuple)) else [one])]
    return next((x for x in flat if isinstance(x, Tensor)), None)


def _number(dtype: torch.dtype) -> bool | float | int:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 0


def _place() -> str:
    """Return file and line of the innermost frame of hybridopt, "" if there is none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        ours = next((root for root in OURS if frame.f_code.co_filename.startswith(root)), None)
        if ours is not None:
            return f"{frame.f_code.co_filename.removeprefix(ours)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
