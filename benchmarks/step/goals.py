"""What was aimed at, as multiples of the time of torch's fused AdamW."""

LLAMA = {  # with the check for NaN, and without it
    "hybridopt.adamw": (1.2, 1.0),
    "hybridopt.signsgd": (0.75, 0.55),
    "hybridopt.lion": (1.05, 0.85),
    "hybridopt.frugal-0": (1.0, 0.8),
    "hybridopt.frugal": (1.15, 0.93),
    "hybridopt.adam_mini": (0.85, 0.75),
    "hybridopt.adalomo": (1.3, 1.2),
    "hybridopt.adafactor": (1.3, 1.2),
    "hybridopt.came": (2.0, 1.9),
    "hybridopt.adamw-int8": (1.5, 1.35),
    "hybridopt.galore": (4.5, 4.3),
}
GOALS: dict[tuple[str, str], dict[str, tuple[float, float | None]]] = {  # by set and dtype, on a CPU
    ("60m", "fp32"): dict(LLAMA),
    ("500m", "fp32"): dict(LLAMA),
    ("60m", "bf16"): {  # weights are rounded at random unless +nearest
        "hybridopt.signsgd+nearest": (0.5, 0.35),
        "hybridopt.signsgd": (0.6, 0.45),
        "hybridopt.adamw+nearest": (0.85, 0.7),
        "hybridopt.adamw": (0.95, 0.8),
    },
    ("adapters", "fp32"): {
        "hybridopt.adamw": (1.2, None),
        "hybridopt.signsgd": (1.0, None),
        "hybridopt.frugal-0": (1.0, None),
        "hybridopt.frugal": (1.0, None),
    },
}


def goals(record: dict) -> tuple[float | None, float | None]:
    """Return what the ratio should be at most with the check and without; None where nothing was set."""
    settings = record["settings"]
    if settings["device"] != "cpu":
        return None, None
    return GOALS.get((settings["set"], settings["dtype"]), {}).get(record["row"], (None, None))


def goal(record: dict) -> float | None:
    """Return what the ratio should be at most, with the check; None where nothing was set."""
    return goals(record)[0]


def missed(record: dict) -> float | None:
    """Return by what share the ratio is over its goal; None where it is not."""
    target = goal(record)
    if target is None or "failed" in record or record["ratio"] <= target:
        return None
    return record["ratio"] / target - 1
