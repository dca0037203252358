"""The language of Triton on numpy, program by program, so that printed kernels run where triton is not installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

PRELUDE = "hybridopt.execution.printing.triton.prelude"
NAN = SimpleNamespace(ALL="all", NONE="none")


class Numbers(np.ndarray):
    """What a program computes with: float32, integers, truths. bfloat16 is float32, rounded when it is stored."""

    def to(self, dtype: Any, bitcast: bool = False) -> "Numbers":
        if dtype == "bfloat16":
            return self
        if bitcast:
            return self.view(dtype)
        whole = np.issubdtype(self.dtype, np.floating) and np.issubdtype(dtype, np.integer)
        return made(np.where(np.isnan(self), 0, self) if whole else self).astype(dtype)  # NaN is 0, as on a GPU


class Pointer:
    def __init__(self, tensor: Tensor, at: Any = 0):
        self.tensor, self.at = tensor.detach().view(-1), at

    def __add__(self, by: Any) -> "Pointer":
        return Pointer(self.tensor, self.at + by)


class Jit:
    """A kernel, or a function that kernels call."""

    program, programs = 0, 1

    def __init__(self, function: Any):
        self.function, self.__name__ = function, function.__name__

    def __call__(self, *given: Any) -> Any:
        return self.function(*given)

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*given: Any, enable_fp_fusion: bool, num_warps: int, **constants: int) -> None:
            assert not enable_fp_fusion and num_warps in (1, 2, 4, 8)
            Jit.programs, told = grid[0], [_told(x) for x in given]
            with np.errstate(all="ignore"):
                for Jit.program in range(grid[0]):
                    self.function(*told, **constants)

        return launch


def _told(x: Any) -> Any:
    return Pointer(x) if isinstance(x, Tensor) else np.float32(x) if isinstance(x, float) else x


def made(x: Any) -> Numbers:
    return np.asarray(x).view(Numbers)


def load(at: Pointer, mask: Any = None, other: float = 0) -> Numbers:
    place = np.asarray(at.at)
    there = np.broadcast_to(True if mask is None else mask, np.broadcast_shapes(place.shape, np.shape(mask)))
    place = np.where(there, np.broadcast_to(place, there.shape), 0)
    found = at.tensor[torch.from_numpy(np.ascontiguousarray(place.reshape(-1)))]
    found = found.float() if found.is_floating_point() else found
    out = found.numpy().reshape(there.shape)
    return made(np.where(there, out, out.dtype.type(other)))


def store(at: Pointer, value: Any, mask: Any = None) -> None:
    place = np.asarray(at.at)
    shape = np.broadcast_shapes(place.shape, np.shape(value), np.shape(mask))
    there = np.broadcast_to(True if mask is None else mask, shape).reshape(-1)
    place, value = (np.broadcast_to(x, shape).reshape(-1)[there] for x in (place, value))
    assert len(np.unique(place)) == len(place), "two elements of a program are written to one place"
    at.tensor[torch.from_numpy(place.copy())] = torch.from_numpy(value.copy()).to(at.tensor.dtype)


def fma(a: Any, b: Any, c: Any) -> Numbers:
    """Return a * b + c, rounded once (but for ties that float64 makes)."""
    return made((np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32))


def where(chosen: Any, a: Any, b: Any) -> Numbers:
    a, b = (np.float32(x) if isinstance(x, float) else x for x in (a, b))
    return made(np.where(chosen, a, b))


def language() -> ModuleType:
    tl = ModuleType("triton.language")
    functions = {
        "abs": np.abs,
        "arange": lambda start, end: made(np.arange(start, end)),
        "cdiv": lambda a, b: -(-a // b),
        "debug_barrier": lambda: None,
        "div_rn": lambda a, b: made(np.true_divide(a, b, dtype=np.float32)),
        "floor": np.floor,
        "fma": fma,
        "load": load,
        "max": lambda x, axis: made(np.fmax.reduce(x, axis)),  # as on a GPU NaN is passed over, unless it is asked for
        "maximum": lambda a, b, propagate_nan="none": made((np.maximum if propagate_nan == "all" else np.fmax)(a, b)),
        "minimum": lambda a, b, propagate_nan="none": made((np.minimum if propagate_nan == "all" else np.fmin)(a, b)),
        "num_programs": lambda axis: Jit.programs,
        "program_id": lambda axis: Jit.program,
        "sqrt_rn": lambda x: made(np.sqrt(x, dtype=np.float32)),
        "store": store,
        "sum": lambda x, axis, keep_dims=False: made(np.sum(x, axis, keepdims=keep_dims)),
        "where": where,
        "zeros": lambda shape, dtype: made(np.zeros(shape, dtype)),
    }
    kinds = {x: getattr(np, x) for x in ("float32", "int64", "int32", "int8", "uint32", "uint8")}
    for name, x in {**functions, **kinds, "bfloat16": "bfloat16", "constexpr": int, "PropagateNan": NAN}.items():
        setattr(tl, name, x)
    return tl


@contextmanager
def triton_on_numpy() -> Iterator[None]:
    """Let printed kernels run within this context."""
    from hybridopt.execution.backends import _compiled_kernels, _triton_kernels

    _triton_kernels.made.cache_clear()
    try:
        with (
            patch.object(_triton_kernels, "installed", lambda planned: True),
            patch.object(_triton_kernels, "defined", _defined),
            patch.object(_compiled_kernels, "on_host", lambda device: False),
        ):
            yield
    finally:
        _triton_kernels.made.cache_clear()


def _defined(text: str, title: str) -> dict[str, Any]:
    """Run a printed module; torch, which looks for triton too, sees nothing of this one."""
    triton: Any = ModuleType("triton")
    triton.jit, triton.language = Jit, language()
    module: dict[str, Any] = {}
    with patch.dict(sys.modules, {"triton": triton, "triton.language": triton.language}):
        sys.modules.pop(PRELUDE, None)
        exec(compile(text, title, "exec"), module)
    return module
