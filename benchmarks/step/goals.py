"""What was aimed at, as multiples of the time of torch's fused AdamW."""

SETTING = ("cpu", "60m")  # device and set for which there are goals
GOALS = {  # in bf16 weights are rounded at random unless +nearest
    "fp32": {
        "hybridopt.adamw": 1.1,
        "hybridopt.signsgd": 0.50,
        "hybridopt.frugal-0": 0.75,
        "hybridopt.frugal": 0.95,
        "hybridopt.adalomo": 1.2,
        "hybridopt.adam_mini": 0.95,
        "hybridopt.adafactor": 1.5,
        "hybridopt.came": 2.5,
        "hybridopt.adamw-int8": 3.0,
    },
    "bf16": {
        "hybridopt.signsgd+nearest": 0.40,
        "hybridopt.adam_mini+nearest": 0.8,
        "hybridopt.adalomo+nearest": 1.5,
        "hybridopt.signsgd": 0.9,
        "hybridopt.adamw": 2.0,
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
