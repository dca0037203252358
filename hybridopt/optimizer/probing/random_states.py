"""The global random states: those of torch (CPU and CUDA), NumPy and Python."""

import random

import numpy
import torch

__all__ = ["RandomStates"]


class RandomStates:
    """All of them, as they are when it is made."""

    def __init__(self) -> None:
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._cpu, self._numpy, self._python = torch.get_rng_state(), numpy.random.get_state(), random.getstate()

    def set(self) -> None:
        """Put them back."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        numpy.random.set_state(self._numpy)
        random.setstate(self._python)
