"""Whether gradients were finite, as their devices know it: told to updates at once, to the host when the step ends."""

import math

import torch
from torch import Tensor

from ...core.numerics.host import on_host

__all__ = ["Flags", "reading_waits"]


def reading_waits(device: torch.device) -> bool:
    """Return whether the host would wait if it read a number of a device, which is still at work on it."""
    return not on_host(device)


class Flags:
    """One flag for every gradient of a step whose norm the host does not read."""

    def __init__(self) -> None:
        self._of: dict[str, Tensor] = {}

    def add(self, name: str, norm: Tensor) -> Tensor:
        """Return whether a gradient is finite, bool [] on its device, and keep that for `not_finite`.

        A norm that float32 cannot hold counts as not finite, too: only the device has the gradient.

        Args:
            name: of the parameter.
            norm: the 2-norm of its gradient, shape [].
        """
        self._of[name] = norm < math.inf  # False for NaN, too
        return self._of[name]

    def not_finite(self) -> list[str]:
        """Return the names of gradients that were not finite, and forget all; waits once for every device."""
        by_device: dict[torch.device, list[str]] = {}
        for name, flag in self._of.items():
            by_device.setdefault(flag.device, []).append(name)
        finite: dict[str, bool] = {}
        for names in by_device.values():
            finite |= zip(names, torch.stack([self._of[n] for n in names]).cpu().tolist(), strict=True)
        bad = [name for name in self._of if not finite[name]]
        self._of = {}
        return bad
