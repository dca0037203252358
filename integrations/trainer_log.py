"""What a HybridTrainer logs beside what the Trainer logs, or in place of it."""

import math

from hybridopt.optimizer.optimizer import HybridOptimizer
from hybridopt.optimizer.releases import release_class

__all__ = ["with_probes", "with_true_norm"]


def with_probes(logs: dict[str, float], optimizer: HybridOptimizer | None, probed: list[float]) -> dict[str, float]:
    """Return what is logged, and with a loss projected_gradient, of the last step, and probe_loss, the mean of all.

    Args:
        logs: what the Trainer logs.
        optimizer: as in `with_true_norm`.
        probed: losses of the probes since the log before; emptied when they are logged.
    """
    if optimizer is None or not probed or "loss" not in logs:
        return logs
    found = {"projected_gradient": optimizer.projected_gradient, "probe_loss": sum(probed) / len(probed)}
    probed.clear()
    return logs | {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def with_true_norm(logs: dict[str, float], optimizer: HybridOptimizer | None) -> dict[str, float]:
    """Return what is logged, with the optimizer's own norm where the Trainer has found no gradients and would log 0.

    Args:
        logs: what the Trainer logs.
        optimizer: the one that it uses; None: an optimizer that is not of this library.
    """
    if optimizer is None or "grad_norm" not in logs:
        return logs
    if optimizer.gradients_needed and not release_class(optimizer.release).frees_gradients:
        return logs
    norm = optimizer.grad_norm if optimizer.gradients_needed else None
    others = {key: value for key, value in logs.items() if key != "grad_norm"}
    return others if norm is None else others | {"grad_norm": float(norm)}
