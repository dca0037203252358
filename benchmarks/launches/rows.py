"""What is counted: a policy, a release, and what may be asked of the device at most."""

from dataclasses import dataclass, field

__all__ = ["ROWS", "Row"]

FEW = {"waits": 1, "copies": 0}


@dataclass(frozen=True)
class Row:
    """One way to train, and its bounds.

    Args:
        policy: its name.
        options: those of the policy.
        release: of the optimizer.
        most: bounds of one step, by kind; kinds that are missing are only shown. "midway" are waits and copies
            within the backward pass.
    """

    policy: str
    options: dict = field(default_factory=dict)
    release: str = "accumulate"
    most: dict[str, int] = field(default_factory=dict)


ROWS = {  # of all 291 tensors of Llama-3-8B in bfloat16
    "adamw": Row("adamw", most={"compiled": 240, "launches": 450, **FEW}),
    "signsgd": Row("signsgd", most={"compiled": 240, "launches": 450, **FEW}),
    "lion": Row("lion", most={"compiled": 240, "launches": 450, **FEW}),
    "frugal": Row("frugal", {"split": "columns", "density": 0.25}, most={"compiled": 240, "launches": 450, **FEW}),
    "frugal, int8": Row("frugal", {"density": 0.25, "codec": "int8"}, most={"compiled": 250, "launches": 450, **FEW}),
    "frugal, rows": Row("frugal", {"split": "rows", "density": 0.25}, most={"compiled": 680, "launches": 450, **FEW}),
    "adamw, int8": Row("adamw", {"codec": "int8"}, most={"compiled": 250, "launches": 400, **FEW}),
    "adalomo": Row("adalomo", most={"compiled": 700, "launches": 500, **FEW}),
    "mezo": Row("mezo", most={"launches": 3000, "waits": 2, "copies": 2}),
    "signsgd, fused": Row("signsgd", release="fused", most={"launches": 1000, "midway": 0, **FEW}),
    "adamw, fused": Row("adamw", release="fused", most={"launches": 1000, "midway": 0, **FEW}),
    "frugal, fused": Row("frugal", {"density": 0.25}, release="fused", most={"launches": 1000, "midway": 0, **FEW}),
}
