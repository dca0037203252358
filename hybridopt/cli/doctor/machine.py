"""What is examined: a device, a folder, and whether updates may be compiled."""

from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["CPU", "Machine", "Way"]

CPU = torch.device("cpu")
Way = tuple[torch.device, bool]  # where, and whether compiled


@dataclass(frozen=True)
class Machine:
    """What the checks are about.

    Args:
        device: that is compared with the CPU; the CPU itself is compared with known numbers.
        folder: on the disk whose speed is measured.
        compile: may the self-test wait for torch.compile?
    """

    device: torch.device
    folder: Path
    compile: bool = True

    @property
    def cuda(self) -> bool:
        """Return whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def ways(self) -> dict[str, Way]:
        """Return, by name, how results are worked out besides by the CPU without compiling."""
        found = {f"{self.device.type}, eager": (self.device, False)} if self.cuda else {}
        return found | ({f"{self.device.type}, compiled": (self.device, True)} if self.compile else {})
