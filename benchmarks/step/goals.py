"""What was aimed at, as multiples of the time of torch's fused AdamW."""

SETTING = ("cpu", "60m")  # device and set for which there are goals
GOALS = {  # with the check for NaN; in bf16 weights are rounded at random unless +nearest
    "fp32": {
        "hybridopt.adamw": 1.2,
        "hybridopt.signsgd": 0.75,
        "hybridopt.lion": 1.05,
        "hybridopt.frugal-0": 1.0,
        "hybridopt.frugal": 1.15,
        "hybridopt.adam_mini": 0.85,
        "hybridopt.adalomo": 1.3,
        "hybridopt.adafactor": 1.3,
        "hybridopt.came": 2.0,
        "hybridopt.adamw-int8": 1.5,
        "hybridopt.galore": 4.5,
    },
    "bf16": {
        "hybridopt.signsgd+nearest": 0.5,
        "hybridopt.signsgd": 0.6,
        "hybridopt.adamw+nearest": 0.85,
        "hybridopt.adamw": 0.95,
    },
}


def goal(record: dict) -> float | None:
    """Return what the ratio should be at most; None where nothing was set."""
    settings = record["settings"]
    if (settings["device"], settings["set"]) != SETTING:
        return None
    return GOALS[settings["dtype"]].get(record["row"])


def missed(record: dict) -> float | None:
    """Return by what share the ratio is over its goal; None where it is not."""
    target = goal(record)
    if target is None or "failed" in record or record["ratio"] <= target:
        return None
    return record["ratio"] / target - 1
