"""The GPU that is measured, told by a process of its own: the one that waits for the parts takes none of its memory.

python -m benchmarks.gpu.machine --device cuda     prints one line of JSON
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..shared.places import BENCHMARKS

SECONDS, SHORT = 180.0, 20.0  # for a device to be told of, torch being imported first, and for short commands
DRIVER = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]


@dataclass(frozen=True)
class Machine:
    """What there is.

    Args:
        device: "cuda", or "cpu" to try everything in tiny form.
        total: bytes of the card's memory; 0 on a CPU.
        environment: versions, names and date.
    """

    device: str
    total: int = 0
    environment: dict = field(default_factory=dict, compare=False)

    def holds(self, size: float) -> bool:
        """Return whether so many bytes fit; on a CPU, where all is tiny, always."""
        return self.device == "cpu" or size <= self.total


def look(device: str) -> Machine:
    """Return the machine, told by a process of its own; SystemExit if there is no such device."""
    command = [sys.executable, "-m", "benchmarks.gpu.machine", "--device", device]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"the device {device!r} has said nothing in {SECONDS:.0f} s: see `nvidia-smi`") from error
    if done.returncode:
        raise SystemExit(f"no device {device!r} can be used (see above); --dry tries everything on a CPU")
    told = json.loads(done.stdout.splitlines()[-1])
    return Machine(device, told.pop("total"), told)


def commit() -> str | None:
    """Return the commit that is measured, None where that is not known."""
    return said(["git", "-C", str(BENCHMARKS.resolve()), "rev-parse", "HEAD"])


def said(command: Sequence[str]) -> str | None:
    """Return the first line that a command says, None where there is no such command, or it fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SHORT)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip().partition("\n")[0] or None if done.returncode == 0 else None


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    import torch

    from hybridopt import HybridOptError
    from hybridopt.core.devices import device_named

    from ..shared.environment import PACKAGES, environment

    parser = argparse.ArgumentParser("python -m benchmarks.gpu.machine", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    device = parser.parse_args(arguments).device
    try:
        device_named(device)
    except HybridOptError as error:
        raise SystemExit(str(error)) from error
    told = environment((*PACKAGES, "triton", "accelerate"), device) | {"commit": commit()}
    if device == "cuda":
        told |= {"total": torch.cuda.get_device_properties(0).total_memory, "driver": said(DRIVER)}
        told |= {"cuda": torch.version.cuda, "capability": list(torch.cuda.get_device_capability())}
    print(json.dumps({"total": 0} | told))


if __name__ == "__main__":
    main()
