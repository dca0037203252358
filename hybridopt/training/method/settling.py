"""Settle what a run leaves open and only its length or batch decides: learning rate and windows."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ...core.errors import HybridOptError
from ...core.registry import find, names
from ...planning import Estimator, Request
from ...policy.late_windows import late_windows, slow_densities
from ..config.run import AUTO, Run

__all__ = ["GAP", "with_rate", "with_windows"]

GAP = "update_gap"


def with_rate(run: Run, estimator: Estimator, request: Request) -> tuple[Run, list[str]]:
    """Return a run with a learning rate that is right for its batch, and lines for people.

    Args:
        run: with its method settled.
        estimator: of the model.
        request: the way to train.

    Raises:
        HybridOptError: `train.lr_batch` is given, and nothing is known of the policy's rates and batches.
    """
    train, told = run.train, []
    if train.lr == AUTO:
        rate, why = estimator.start_rate(request)
        run = replace(run, train=replace(train, lr=rate))
        told.append(f"train.lr={rate:g} {why}; it is not tuned for your data")
    elif train.lr_batch is not None:
        try:
            rate, why = estimator.rate(request, (float(train.lr), train.lr_batch))
        except HybridOptError as error:
            raise HybridOptError(f"train.lr_batch={train.lr_batch}: {error}; leave it out") from None
        run = replace(run, train=replace(train, lr=rate, lr_batch=None))
        told.append(f"train.lr={rate:g} {why}: try it first")
    return run, told


def with_windows(run: Run, estimator: Estimator, request: Request, steps: int | None) -> tuple[Run, list[str]]:
    """Return a run whose windows are not longer than itself, where it does not say how long, and lines for people.

    Args:
        run: with its method settled.
        estimator: of the model.
        request: the way to train.
        steps: of the run; None: not known.
    """
    if steps is None:
        return run, []
    plan, method = estimator.plan(request), run.method
    late, slow = late_windows(plan, steps), [f"method.options.{text}" for text in slow_densities(plan, steps)]
    if not late:
        return run, slow
    if GAP in _open(method.policy, method.options):
        gap = min(each.better for each in late)
        run = replace(run, method=replace(method, options={**method.options, GAP: gap}))
        return run, [f"method.options.{GAP}={gap} in place of {late[0].gap}: {late[0].why}", *slow]
    return run, [*(f"method.options.{each}" for each in late), *slow]


def _open(policy: str, options: Mapping[str, Any]) -> set[str]:
    """Return the options of a policy by name that a run does not give; none where it gives a split of its own."""
    name = policy.replace("-", "_")
    if name not in names("policies") or not isinstance(options.get("split", ""), str):
        return set()
    return {field.name for field in fields(find("policies", name))} - set(options)
