"""Saved runs on the files of a checkpoint, shard by shard."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.devices import device_named
from ...core.errors import HybridOptError
from ...core.files import tensors
from ...core.files.paths import path_of
from ...model.checksums import checksum
from ..replay.rebuild import check_end
from ..replay.steps import Progress, add_, replay_, summed
from ..replay.trajectory import check_upto
from .base_files import appearing, check_out, tensor_files
from .composing import Adapter, check_present, check_tensor, fitted, read_adapter

__all__ = ["Replay", "ReplayReport"]


@dataclass
class ReplayReport:
    """What a replay has done.

    Args:
        steps: of all runs.
        directions: along which weights moved.
        parameters: that were rebuilt.
        seconds: spent on updates.
        verified: was every result compared with the checksum that training has left?
    """

    steps: int
    directions: int
    parameters: int
    seconds: float
    verified: bool

    @property
    def cost(self) -> float:
        """Return nanoseconds a parameter and direction."""
        return self.seconds * 1e9 / max(1, self.parameters * self.directions)


class Replay:
    """Rebuild the weights of a checkpoint from adapters; everything is checked before the first step.

    Args:
        base: a folder with *.safetensors, or one such file.
        adapters: saved folders, in the order of their training, or trained on the same base; then they are added.
        upto: steps of the (only) run; None: all.
        pooled: add up the multiples of every direction first.

    Raises:
        HybridOptError: for adapters that do not fit, see `composing`.
    """

    def __init__(self, base: Path, adapters: Sequence[Path], upto: int | None = None, pooled: bool = False):
        self.base, self.upto, self.pooled = path_of(base, "base"), upto, pooled
        self.files = tensor_files(self.base)
        self.adapters = [read_adapter(path) for path in adapters]
        self._check_upto()
        self.passes = [_sums(a, upto) if pooled else self._steps(a) for a in self.adapters]
        self.exact = fitted(self.adapters, self._look())

    @property
    def work(self) -> int:
        """Return elements times passes, at most."""
        runs = zip(self.adapters, self.passes, strict=True)
        return sum(trace.numel * passes for a, passes in runs for trace in a.run.traces.values())

    @property
    def verified(self) -> bool:
        """Return whether every result is compared with the checksum that training has left."""
        whole = all(self._steps(a) == len(a.run) for a in self.adapters)
        return whole and all(self.exact) and not self.pooled

    def write(self, out: Path, device: str = "cpu", progress: Progress = lambda done: None) -> ReplayReport:
        """Write the rebuilt checkpoint: a file for a file, a folder for a folder.

        Args:
            out: where nothing is yet.
            device: on which updates are computed.
            progress: is told how many elements times steps have been done.
        """
        out = path_of(out, "out")
        check_out(self.base, out)
        place_of_work = device_named(device)
        self._seconds = 0.0
        with appearing(self.base, out) as folder:
            for file in self.files:
                found = tensors.load(file, "the base")
                for name in found:
                    found[name] = self._changed(name, found[name], place_of_work, progress)
                place = folder if self.base.is_file() else folder / file.name
                tensors.save(found, place, tensors.metadata(file, "the base"))
        return self._report()

    def _changed(self, name, x, device, progress) -> Tensor:
        for adapter, exact in zip(self.adapters, self.exact, strict=True):
            if name in adapter.delta:
                x = adapter.delta[name]
            elif name in adapter.names:
                x = self._replayed(adapter, name, x.to(device), progress)
                if exact and not self.pooled and self._steps(adapter) == len(adapter.run):
                    check_end(name, adapter.trace(name), x)
        return x

    def _replayed(self, adapter, name, x, progress):
        name, run = adapter.names[name], adapter.run
        moves, start = run.moves(name, self.upto), time.perf_counter()
        if self.pooled:
            add_(x, name, run.group(name), moves, progress)
        else:
            replay_(x, name, run.group(name), moves, progress)
        x = x.cpu()
        self._seconds += time.perf_counter() - start
        return x

    def _report(self):
        steps = sum(map(self._steps, self.adapters))
        samples = 1 if self.pooled else self.adapters[0].run.slopes.shape[1]
        sizes = {name: a.trace(name).numel for a in self.adapters for name in a.names}
        return ReplayReport(steps, sum(self.passes) * samples, sum(sizes.values()), self._seconds, self.verified)

    def _steps(self, adapter):
        return len(adapter.run) if self.upto is None else self.upto

    def _look(self):
        """Return the checksums of all tensors of the base that any adapter knows of."""
        names = [name for file in self.files for name in tensors.names(file, "the base")]
        if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
            raise HybridOptError(
                f"{self.base} holds {twice[0]!r} in several files; remove those that belong elsewhere"
            )
        for adapter in self.adapters:
            check_present(adapter, names, self.base)
        known = {}
        for name, x in (pair for file in self.files for pair in tensors.each(file, "the base")):
            for adapter in self.adapters:
                if name in adapter.touched:
                    check_tensor(adapter, name, x)
            if any(name in a.base and a.base[name][1] == str(x.dtype) for a in self.adapters):
                known[name] = checksum(x)
        return known

    def _check_upto(self):
        if self.upto is None:
            return
        if len(self.adapters) > 1:
            raise HybridOptError(f"upto={self.upto} is for one adapter; got {len(self.adapters)}")
        check_upto(self.upto, len(self.adapters[0].run))
        if self.upto < len(self.adapters[0].run) and self.adapters[0].delta:
            name = sorted(self.adapters[0].delta)[0]
            raise HybridOptError(
                f"upto={self.upto}: {name!r} and others were saved as tensors, as they were at the end; only a run "
                "that is saved as scalars alone can be rebuilt up to a step"
            )


def _sums(adapter: Adapter, upto: int | None) -> int:
    """Return how many directions a run has; raise HybridOptError if their multiples may not be added up."""
    passes = 0
    for group in adapter.run.groups:
        for name, trace in group.traces.items():
            x = torch.empty(trace.seen, dtype=trace.dtype, device="meta")
            passes = max(passes, len(summed(x, name, group, adapter.run.moves(name, upto))))
    return passes
