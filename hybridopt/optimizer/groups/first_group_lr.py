"""A learning rate that is set in the first of several groups, by code that expects only one."""

import warnings
from typing import Any

from torch import Tensor

from ...core.errors import HybridOptWarning

__all__ = ["FirstGroupRate"]


class FirstGroupRate:
    """Notices `optimizer.param_groups[0]["lr"] = ...` where a policy has made several groups of one list."""

    def __init__(self) -> None:
        self._common: float | None = None  # the rate of all groups at the last step; None: they differed

    def check(self, groups: list[dict[str, Any]]) -> None:
        """Warn if since the last step only the first group has got another learning rate."""
        first, *others = groups
        rates = [group["lr"] for group in others if group["user_group"] == first["user_group"]]
        if not rates or isinstance(first["lr"], Tensor):
            return
        apart = first["lr"] != self._common and all(rate == self._common for rate in rates)
        if self._common is not None and apart:
            warnings.warn(
                f"lr={first['lr']!r} was set in param_groups[0] only; the policy has made {len(rates) + 1} groups of "
                f"the parameters given, and the others keep lr={self._common!r}. To set all: `for group in "
                'optimizer.param_groups: group["lr"] = ...`; to have one group: HybridOptimizer([{"params": '
                "list(model.named_parameters())}])",
                HybridOptWarning,
                stacklevel=5,
            )
        self._common = first["lr"] if all(rate == first["lr"] for rate in rates) else None
