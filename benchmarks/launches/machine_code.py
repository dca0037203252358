"""What the machine code of a generated kernel is like: registers, spills, and how many bits one access moves."""

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .absent import TARGET

__all__ = ["Kernel", "kernels", "printed"]

SOURCE = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)''', device_str", re.S)
WARPS = 4
KINDS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.int8: "i8", torch.uint8: "u8"}


@dataclass(frozen=True)
class Kernel:
    """One kernel of a graph, as ptxas makes it for sm_90.

    Args:
        registers: of a thread.
        spilled: bytes of registers that did not fit.
        loads: how often an access of so many bits stands in the code, by bits.
        stores: the same of what is written.
        instructions: in the code, slow paths included.
    """

    registers: int
    spilled: int
    loads: dict[int, int]
    stores: dict[int, int]
    instructions: int


def kernels(code: str) -> list[Kernel]:
    """Return what ptxas makes of every Triton kernel in the code of a graph."""
    return [_kernel(name, text) for name, text in SOURCE.findall(code)]


def _kernel(name, text):
    from triton.compiler import ASTSource

    signature = eval(_only(r"triton_meta=\{'signature': (\{.*?\}), 'device'", text))  # inductor's own
    heuristic = _only(r"@triton_heuristics\.(\w+)\(", text)
    with tempfile.TemporaryDirectory() as folder:
        function = getattr(_module(_bare(text), Path(folder)), name)
        blocks = _blocks(heuristic, function.arg_names)
        types = {n: "constexpr" if n in blocks else signature[n] for n in function.arg_names}
        wide = {n for n, kind in signature.items() if kind.startswith("*") or n.endswith("numel")}
        at = function.arg_names.index
        source = ASTSource(
            function,
            types,
            {(at(n),): value for n, value in blocks.items()},
            {(at(n),): [["tt.divisibility", 16]] for n in wide if n in types},
        )
        return _compiled(source, {"num_warps": WARPS}, Path(folder))


def printed(function: Any, given: Sequence[Any], constants: dict[str, int], options: dict[str, Any]) -> Kernel:
    """Return what ptxas makes of a kernel of the project.

    Args:
        function: of Triton.
        given: its arguments, tensors without memory and numbers.
        constants: of the kernel.
        options: of the launch.
    """
    from triton.compiler import ASTSource

    names, types, attributes, fixed = function.arg_names, dict[str, str](), dict[tuple, list](), dict[tuple, int]()
    for i, (name, x) in enumerate(zip(names, given, strict=False)):
        types[name] = "constexpr" if type(x) is int and x == 1 else _type(x)
        if types[name] == "constexpr":
            fixed[(i,)] = 1
        elif isinstance(x, Tensor) or (type(x) is int and x % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    for name, x in constants.items():
        types[name], fixed[(names.index(name),)] = "constexpr", x
    with tempfile.TemporaryDirectory() as folder:
        return _compiled(ASTSource(function, types, fixed, attributes), options, Path(folder))


def _only(pattern: str, text: str) -> str:
    """Return the group of a pattern that the source of every kernel holds."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in the source of a kernel, as this version of inductor writes it")
    return found.group(1)


def _type(x: Any) -> str:
    if isinstance(x, Tensor):
        return "*" + KINDS[x.dtype]
    return "fp32" if isinstance(x, float) else "i32"


def _compiled(source: Any, options: dict[str, Any], folder: Path) -> Kernel:
    import triton
    from triton.backends.compiler import GPUTarget

    made = triton.compile(source, target=GPUTarget(*TARGET), options=options)
    return _looked_at(made.asm, folder, Path(triton.__file__).parent / "backends/nvidia/bin")


def _bare(text: str) -> str:
    """Return the source of a kernel without inductor's decorator, and without a driver."""
    text = re.sub(r"@triton_heuristics\..*?\n\)\n", "", text, flags=re.S)
    return text.replace("triton_helpers.set_driver_to_gpu()", "")


def _module(text: str, folder: Path) -> ModuleType:
    path = folder / "kernel.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("kernel", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _blocks(heuristic: str, names: list[str]) -> dict[str, int]:
    """Return block sizes as inductor would try them first."""
    reduces = "reduction" in heuristic
    sizes = {"XBLOCK": (8 if "persistent" in heuristic else 1) if reduces else 1024, "YBLOCK": 32, "R0_BLOCK": 2048}
    return {name: size for name, size in sizes.items() if name in names}


def _looked_at(asm: dict[str, Any], folder: Path, tools: Path) -> Kernel:
    (folder / "kernel.ptx").write_text(asm["ptx"])
    (folder / "kernel.cubin").write_bytes(asm["cubin"])
    said = _said(tools / "ptxas", "-v", "-arch=sm_90a", folder / "kernel.ptx", "-o", folder / "again.cubin")
    code = _said(tools / "nvdisasm", "-c", folder / "kernel.cubin")
    found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)", code, re.M)
    (registers,), (spilled,) = re.findall(r"Used (\d+) registers", said), re.findall(r"(\d+) bytes spill stores", said)
    loads, stores = ({b: n for b, n in sorted(_bits(found, kind).items())} for kind in ("LDG", "STG"))
    return Kernel(int(registers), int(spilled), loads, stores, len([one for one in found if one != "NOP"]))


def _said(*command: object) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _bits(instructions: list[str], kind: str) -> Counter[int]:
    """Count accesses to global memory by the bits that they move: LDG.E.128 moves 128, LDG.E 32."""
    widths = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
    mine = [one.split(".")[1:] for one in instructions if one.split(".")[0] == kind]
    return Counter(next((widths[part] for part in parts if part in widths), 32) for parts in mine)
