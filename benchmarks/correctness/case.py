"""One case; whoever only hands it on to another process imports nothing else."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """A way to train a small model.

    Args:
        check: of CHECKS.
        policy: its name; of the doctor's checks, the name of the check.
        lora: rank of adapters; None: all weights are trained.
        release: of the optimizer.
        compile: are updates compiled on the device?
        quantization: of the base, or of the weights that are trained.
        saved: is it saved, and read again?
    """

    check: str
    policy: str
    lora: int | None = None
    release: str = "accumulate"
    compile: bool = False
    quantization: str | None = None
    saved: bool = False
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        if self.check == "doctor":
            return self.policy
        words = [self.policy, self.quantization or "", f"LoRA r={self.lora}" if self.lora else "full", self.release]
        return ", ".join(filter(None, [*words, "compiled" if self.compile else "eager", "saved" * self.saved]))
