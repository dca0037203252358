"""What computation depends on besides its arguments: settings of the thread, and of the process."""

import contextvars
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .random_states import RandomStates

__all__ = ["Settings", "Surroundings", "modes_on"]


def modes_on() -> str | None:
    """Return the class of a mode that sees every operation of this thread, and of no other; None: there is none.

    The one that sets a default device is none of them, as `Surroundings` carries it over.
    """
    found = [m for m in _get_current_function_mode_stack() if not isinstance(m, DeviceContext)]
    found += _get_current_dispatch_mode_stack()
    return type(found[0]).__name__ if found else None


class Surroundings:
    """The settings of the thread that makes it, for other threads: autocast, device, stream and context variables.

    Gradients are off in those.
    """

    def __init__(self) -> None:
        accelerator = torch.accelerator.current_accelerator()
        kinds = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
        self._autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)]
        self._caches = torch.is_autocast_cache_enabled()
        modes = [m for m in _get_current_function_mode_stack() if isinstance(m, DeviceContext)]
        self._default = modes[-1].device if modes else None
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def wrap(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return `work` with these settings, for another thread to call."""
        context = contextvars.copy_context()

        def within() -> None:
            with ExitStack() as stack:
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.no_grad())
                if self._default is not None:
                    stack.enter_context(torch.device(self._default))
                if self._stream is not None:
                    stack.enter_context(torch.cuda.stream(self._stream))
                for kind, dtype in self._autocast:
                    stack.enter_context(torch.autocast(kind, dtype, cache_enabled=self._caches))
                work()

        return lambda: context.run(within)


class Settings:
    """The settings of the process, as they are when it is made: random states, default dtype, modes of modules.

    Args:
        modules: whose modes (train or eval) count.
    """

    def __init__(self, modules: list[nn.Module]):
        self._random, self._dtype = RandomStates(), torch.get_default_dtype()
        self._modules, self._modes = modules, [module.training for module in modules]

    def set(self) -> None:
        """Put them back."""
        self._random.set()
        torch.set_default_dtype(self._dtype)
        for module, mode in zip(self._modules, self._modes, strict=True):
            if module.training is not mode:
                module.training = mode
