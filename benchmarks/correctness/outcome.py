"""How a case went: every error is an outcome, by its name."""

import math
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hybridopt.core.errors import HybridOptError

from .case import Case
from .training import Trained, differences, shaken, train

SHAKEN = 5.0  # times what the last bits of the first weights change on the CPU, a device may be off
WRONG = 0.8  # of "update": from there on no such reason is taken
BOUNDS = {"losses": 1e-3, "weights": 1e-3, "update": 0.05}  # a step in the wrong direction is off by 1 and more
QUANTIZED = {"losses": 2e-2}  # its products differ from device to device, and small gradients with them
LONGEST = 400  # characters of an error


def outcomes(case: Case, device: str) -> list[dict]:
    """Return the rows of a case: "case", its "state" (ok, fail, warn, skipped or refused), and what is "said"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.check == "doctor":
            return findings(case, device)
        return [{"case": str(case), "check": case.check, **outcome(case, device)}]


def findings(case: Case, device: str) -> list[dict]:
    """Return what a check of `hybridopt doctor` has found."""
    from hybridopt.cli.doctor.examine import checks, outcome
    from hybridopt.cli.doctor.machine import Machine

    with TemporaryDirectory() as folder:
        machine = Machine(torch.device(device), Path(folder), compile=case.compile)
        check = next(check for check in checks() if check.name == case.policy)
        found = [one.as_dict() for one in outcome(check, machine)]
    for number, one in enumerate(found):
        again = sum(other["name"] == one["name"] for other in found[:number])  # each line is a row of its own
        one["numbers"] = {key: value for key, value in one["numbers"].items() if math.isfinite(value)}
        state = "info" if one["state"] == "ok" and one["numbers"] else one["state"]
        one |= {
            "case": f"{one['name']} ({again + 1})" if again else one["name"],
            "check": case.check,
            "state": state,
            "said": one["value"],
        }
    return found


def outcome(case: Case, device: str) -> dict:
    """Return how a training on the device compares with one on the CPU, which compiles nothing."""
    try:
        wanted = train(case, "cpu", False)
    except HybridOptError as refusal:
        return refused(case, device, refusal)
    except Exception as error:  # of whatever kind: it is the result
        return failed(error, "on the CPU: ")
    try:
        found = train(case, device, case.compile, wanted.start)
    except Exception as error:
        return failed(error)
    row = compared(case, wanted, found)
    return row if row["state"] == "ok" else judged_by_last_bits(case, wanted, row)


def judged_by_last_bits(case: Case, wanted: Trained, row: dict) -> dict:
    """Return the outcome of a training that is off; "info" if other last bits of the first weights lead as far.

    Signs of what is nearly 0, and differences of losses that are nearly equal, turn whole numbers of an update.

    Args:
        case: how was trained.
        wanted: the training on the CPU.
        row: its outcome by fixed bounds.
    """
    if row["reread"] is False or not wanted.start:
        return row
    own = differences(wanted, train(case, "cpu", False, shaken(wanted.start)))
    off = {key: float(value) for key, value in row["off"].items()}
    bounds = QUANTIZED if case.quantization else BOUNDS
    near = all(off[key] <= max(most, SHAKEN * own[key]) for key, most in bounds.items() if key in off)
    if not near or not off.get("update", 0.0) < WRONG:
        return row
    said = f"{row['said']}; so do last bits of the first weights on the CPU"
    return row | {"state": "info", "said": said[:LONGEST], "last_bits": own}


def refused(case: Case, device: str, refusal: HybridOptError) -> dict:
    """Return whether what the CPU refuses is refused on the device, too."""
    try:
        train(case, device, case.compile)
    except HybridOptError as error:
        return {"state": "refused", "said": str(error)[:LONGEST]}
    except Exception as error:
        return failed(error, "is refused on the CPU, and here: ")
    return {"state": "fail", "said": f"runs, but is refused on the CPU: {refusal}"[:LONGEST]}


def failed(error: Exception, where: str = "") -> dict:
    """Return the outcome that an error is."""
    return {"state": "fail", "said": f"{where}{type(error).__name__}: {error}"[:LONGEST]}


def compared(case: Case, wanted: Trained, found: Trained) -> dict:
    """Return how close two trainings are, and whether what was saved is what was read."""
    bounds = QUANTIZED if case.quantization else BOUNDS
    off = differences(wanted, found)
    wrong = [
        f"{key} off by {off[key]:.1e}, at most {most:.0e}" for key, most in bounds.items() if not off[key] <= most
    ]
    if found.reread is False:
        wrong.append("what was read is not what was saved")
    numbers = {key: value if math.isfinite(value) else str(value) for key, value in off.items()}
    said = "; ".join(wrong) or ", ".join(f"{key} off by {value:.1e}" for key, value in off.items())
    return {"state": "fail" if wrong else "ok", "said": said, "off": numbers, "reread": found.reread}
