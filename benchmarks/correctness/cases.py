"""What is checked, case by case."""

from itertools import product

from hybridopt.core.registry import names
from hybridopt.policy.routes import read_policy

from .case import Case

__all__ = ["CHECKS", "cases_of"]

FEW = ("adamw", "frugal", "mezo")  # of the policies, where time is short
RELEASES = ("accumulate", "fused")
TRAINED_INT8 = ("signsgd", "frugal", "adamw", "mezo", "qgalore")


def trainings(check: str, fast: bool) -> list[Case]:
    """Return a case for every policy, with all weights trained and with adapters, at once and in the backward pass.

    Args:
        check: "eager" or "compiled".
        fast: only few policies.
    """
    ways = product((None, 8), RELEASES, policies(fast))  # every policy in one way before any in the next
    return [Case(check, policy, lora, release, check == "compiled") for lora, release, policy in ways]


def policies(fast: bool) -> list[str]:
    """Return the policies that train any model; what trains scales alone needs a quantized one."""
    return [name for name in (FEW if fast else names("policies")) if not read_policy(name, {}).opens_scales]


def stored(check: str, fast: bool) -> list[Case]:
    """Return cases of quantized models; what was trained is saved and read again, also where nothing is quantized."""
    found = [Case(check, "frugal", 8, quantization=one, saved=True) for one in ("nf4", "int8")]
    found += [Case(check, "frugal", saved=True), Case(check, "mezo", saved=True)]
    if fast:
        return found
    found += [Case(check, "adamw", 8, "fused", quantization="nf4", saved=True)]
    found += [
        Case(check, "mezo", 8, quantization="nf4", saved=True),
        Case(check, "qzo", quantization="nf4", saved=True),
    ]
    return found + [Case(check, one, quantization="int8-trainable", saved=True) for one in TRAINED_INT8]


def examined(check: str, fast: bool) -> list[Case]:
    """Return a case for every check of `hybridopt doctor`, in its order."""
    from hybridopt.cli.doctor.examine import checks

    return [Case(check, one.name, compile=not fast) for one in checks()]


CHECKS = {"doctor": examined, "eager": trainings, "quantized": stored, "compiled": trainings}


def cases_of(checks: list[str], fast: bool) -> list[Case]:
    """Return the cases of some checks, in their order."""
    return [case for check in checks for case in CHECKS[check](check, fast)]
