"""What is counted: a policy, a release, tensors, and what may be asked of the device at most."""

from dataclasses import dataclass, field, replace

from hybridopt.core.registry import names

from ..shared.llama import SETS

__all__ = ["BOUND", "EVERY", "ROWS", "SHAPES", "WINDOWS", "Row"]

FEW = {"waits": 1, "copies": 0}
RANK = 16
SMALL = replace(SETS["60m"], layers=2)


@dataclass(frozen=True)
class Row:
    """One way to train, and its bounds.

    Args:
        policy: its name.
        options: those of the policy.
        release: of the optimizer.
        most: bounds of one step, by kind; kinds that are missing are only shown. "midway" are waits and copies
            within the backward pass.
        shapes: of the tensors, a name of `SHAPES`.
        coded: are matrices kept as 8-bit codes, and trained so (int8-trainable)?
    """

    policy: str
    options: dict = field(default_factory=dict)
    release: str = "accumulate"
    most: dict[str, int] = field(default_factory=dict)
    shapes: str = "8b"
    coded: bool = False


def _adapters(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the LoRA matrices of all linear layers, under PEFT's names."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if name.endswith("_proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{layer}.lora_A.default.weight"] = (RANK, shape[1])
            found[f"{layer}.lora_B.default.weight"] = (shape[0], RANK)
    return found


SHAPES = {"8b": SETS["8b"].shapes, "full": SMALL.shapes, "LoRA": _adapters(SMALL.shapes)}

FUSED = {"launches": 1000, "midway": 0, **FEW}
BOUND = {  # of all 291 tensors of Llama-3-8B in bfloat16
    "adamw": Row("adamw", most={"compiled": 240, "launches": 450, **FEW}),
    "signsgd": Row("signsgd", most={"compiled": 240, "launches": 450, **FEW}),
    "lion": Row("lion", most={"compiled": 240, "launches": 450, **FEW}),
    "frugal": Row("frugal", {"split": "columns", "density": 0.25}, most={"compiled": 240, "launches": 450, **FEW}),
    "frugal, int8": Row("frugal", {"density": 0.25, "codec": "int8"}, most={"compiled": 250, "launches": 450, **FEW}),
    "frugal, rows": Row("frugal", {"split": "rows", "density": 0.25}, most={"compiled": 680, "launches": 450, **FEW}),
    "adamw, int8": Row("adamw", {"codec": "int8"}, most={"compiled": 250, "launches": 400, **FEW}),
    "adalomo": Row("adalomo", most={"compiled": 240, "launches": 450, **FEW}),
    "mezo": Row("mezo", most={"launches": 3000, "waits": 2, "copies": 2}),
    "addax": Row("addax", most={"launches": 3000, "waits": 3, "copies": 0}),
    "zo_adam": Row("zo_adam", most={"launches": 2500, "waits": 2, "copies": 0}),
    "adamw, int8-trainable": Row("adamw", most={"compiled": 240, "launches": 450, **FEW}, coded=True),
    "signsgd, int8-trainable": Row("signsgd", most={"compiled": 240, "launches": 450, **FEW}, coded=True),
    "signsgd, fused": Row("signsgd", release="fused", most=FUSED),
    "adamw, fused": Row("adamw", release="fused", most=FUSED),
    "frugal, fused": Row("frugal", {"density": 0.25}, release="fused", most=FUSED),
    "addax, fused": Row("addax", release="fused", most=FUSED | {"launches": 3500, "waits": 3}),
    "adamw, int8-trainable, fused": Row("adamw", release="fused", most=FUSED, coded=True),
}
NEVER = {"fused": {"midway": 0}}
IN_ROUNDS = ("adafactor", "adalomo", "adam_mini", "came", "scale", "sinkgd")  # all kernels of a tensor by one call
MATRICES = sum(len(shape) > 1 for shape in SHAPES["full"].values())
WINDOWS = {  # fused release of two layers, every step the first of a window
    f"{name}, new window": Row(policy, {"update_gap": 1, **options}, "fused", {"midway": most}, "full")
    for name, policy, options, most in (
        ("frugal", "frugal", {}, 0),
        ("frugal, rows", "frugal", {"split": "rows"}, 0),
        ("frugal, randk", "frugal", {"split": "randk"}, 0),
        ("frugal, random", "frugal", {"split": "random"}, 0),
        ("frugal, svd", "frugal", {"split": "svd"}, 0),
        ("badam", "badam", {}, 0),
        ("galore", "galore", {}, 0),
        ("galore, exact SVD", "galore", {"solver": "exact"}, MATRICES),  # a decomposition that waits
        ("qgalore", "qgalore", {}, MATRICES),
    )
}


def _most(policy: str, release: str, shapes: str) -> dict[str, int]:
    """Return the bounds of a policy, for those of its kind.

    Args:
        policy: its name.
        release: of the optimizer.
        shapes: of the tensors.
    """
    calls = {"compiled": len(SHAPES[shapes])} if policy in IN_ROUNDS else {}
    return NEVER.get(release, {}) | calls


EVERY = {  # every policy with every release, of two layers
    f"{policy}, {release}, {shapes}": Row(policy, release=release, shapes=shapes, most=_most(policy, release, shapes))
    for policy in names("policies")
    for release in ("accumulate", "fused")
    for shapes in ("full", "LoRA")
}
ROWS = BOUND | EVERY | WINDOWS
