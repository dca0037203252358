"""Inductor for an H100 that is not there: the code that it would run is kept, and nothing runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties

__all__ = ["KEPT", "TARGET", "Kept", "inductor"]

CAPABILITY = (9, 0)
SIZES: dict[str, Any] = {
    "multi_processor_count": 132,
    "major": 9,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "warp_size": 32,
}
H100 = SimpleNamespace(
    name="NVIDIA H100", minor=0, total_memory=80 << 30, L2_cache_size=50 << 20, gcnArchName="", **SIZES
)
KEPT = "its code is kept"
TARGET = ("cuda", 90, 32)  # as triton takes it


class Kept(Exception):
    """Ends the compilation of a graph whose code has been written."""


@contextmanager
def inductor() -> Iterator[list[str]]:
    """Let torch.compile write its code for sm_90; every graph then ends in `Kept`, and its code is in the list."""
    import triton
    from triton.backends.compiler import GPUTarget

    written: list[str] = []

    def keep(graph: GraphLowering) -> None:
        code: Any = graph.codegen()[0]
        written.append(getattr(code, "value", code))
        raise Kept(KEPT)

    hint = DeviceProperties(type="cuda", index=0, cc=90, **SIZES)
    triton.runtime.driver.set_active(_driver(GPUTarget(*TARGET)))
    with ExitStack() as stack:
        for where, name, value in (
            (DeviceProperties, "create", lambda device: hint),
            (torch.cuda, "get_device_properties", lambda *_: H100),
            (torch.cuda, "get_device_capability", lambda *_: CAPABILITY),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "device_count", lambda: 1),
            (CudaInterface, "is_available", staticmethod(lambda: True)),
            (CudaInterface, "current_device", staticmethod(lambda: 0)),
            (CudaInterface, "get_compute_capability", staticmethod(lambda *_: 90)),
            (CudaInterface, "is_triton_capable", staticmethod(lambda *_: True)),
            (CudaInterface, "raise_if_triton_unavailable", staticmethod(lambda *_: None)),
            (CudaInterface, "is_bf16_supported", staticmethod(lambda *_, **__: True)),
            (CudaInterface, "get_raw_stream", staticmethod(lambda _: 0)),
            (CudaInterface.Worker, "get_device_properties", staticmethod(lambda *_: H100)),
            (CudaInterface.Worker, "current_device", staticmethod(lambda: 0)),
            (GraphLowering, "compile_to_module", keep),
            (GraphLowering, "_compile_to_module", keep),
        ):
            stack.enter_context(patch.object(where, name, value, create=True))
        stack.enter_context(config.patch(joint_graph_constant_folding=False, compile_threads=1, fx_graph_cache=False))
        stack.enter_context(torch._functorch.config.patch(enable_autograd_cache=False))
        yield written


def _driver(target):
    return SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: 0,
        get_current_stream=lambda device=0: 0,
        get_device_interface=lambda: torch.cuda,
        get_active_torch_device=lambda: torch.device("cuda", 0),
        get_benchmarker=lambda: lambda *_, **__: [0.0],
        map_python_to_cpp_type=lambda kind: kind,
        is_active=lambda: True,
    )
