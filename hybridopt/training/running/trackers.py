"""Whether what a run is to be reported to is installed."""

from collections.abc import Sequence

from ...core.errors import HybridOptError

__all__ = ["check_trackers"]

UNLISTED = ("flyte",)  # by transformers, which knows them


def check_trackers(names: Sequence[str]) -> None:
    """Raise HybridOptError for a tracker whose library is missing, before a trainer is made.

    names: of train.report_to, such as "wandb".
    """
    if not names:
        return
    from transformers.integrations import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    if missing := [name for name in names if name not in (*there, *UNLISTED)]:
        raise HybridOptError(
            f"train.report_to={list(names)}: {', '.join(missing)} cannot be reported to, as its library is not "
            f"installed; install it (pip install {' '.join(missing)}), or leave it out. Installed: "
            f"{', '.join(sorted(there)) or 'none'}; log.jsonl and report.html are always written"
        )
