"""What the planner predicts for the methods, with fake tensors on the CPU."""

from typing import Any

from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of

from ..shared.llama import SETS
from ..shared.llama_model import config_of
from .methods import Method


def planned(method: Method, size: str, device: str, sequence: int) -> dict:
    """Return bytes of a step as an allocator counts them, without the framework's own; or why there are none.

    Args:
        method: what trains.
        size: of SETS.
        device: "cpu" or "cuda".
        sequence: tokens.
    """
    if method.policy is None:
        return {"failed": "plans are of hybridopt's policies alone"}
    how: dict[str, Any] = {"release": method.release, "checkpointing": method.checkpointing}
    how |= {"activations": method.activations, "seq_len": sequence, "device": device}
    request = Request(method.policy, method.options, **how)
    try:
        found = Estimator(subject_of(config_of(SETS[size]))).estimate(request)
    except Exception as error:  # of whatever kind: it is the result
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return {"peak_bytes": found.peak_bytes - found.overhead_bytes} | {f"{k}_bytes": n for k, n in found.parts.items()}
