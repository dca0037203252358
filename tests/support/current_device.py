"""CUDA's current device without CUDA."""

from types import SimpleNamespace

import torch

__all__ = ["CurrentDevice"]


class CurrentDevice:
    """The number of the current device, which guards of torch set, and what says to be a tensor on any.

    monkeypatch: pytest's.
    """

    def __init__(self, monkeypatch):
        self.index = 0
        for name in ("_exchange_device", "_maybe_exchange_device"):
            monkeypatch.setattr(torch.cuda, name, self._exchanged)

    def _exchanged(self, index):
        before, self.index = self.index, index if index >= 0 else self.index
        return before

    @staticmethod
    def tensor(index):
        return SimpleNamespace(is_cuda=True, get_device=lambda: index)
