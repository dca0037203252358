"""What a run has left in its folder, as far as it is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError
from ...core.files import plain_json
from ..watching.log import read_log

__all__ = ["Facts", "facts_in"]

RUN, PLAN, LOG = "run.yaml", "plan.json", "log.jsonl"
MADE_WITH = "made_with"  # key of versions and files in run.yaml
END = "train_runtime"  # in the last record of a run that has finished


@dataclass(frozen=True)
class Facts:
    """All that is known of a run; what is not there is empty.

    Args:
        run: run.yaml, without what it was made with.
        made_with: versions, and the files of the data.
        plan: plan.json.
        records: log.jsonl.
    """

    run: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = ()

    def part(self, name: str) -> Mapping[str, Any]:
        """Return an object in plan.json; {} where there is none."""
        found = self.plan.get(name)
        return found if isinstance(found, Mapping) else {}

    def size(self, part: str, key: str) -> int | None:
        """Return a number of bytes in an object in plan.json; None where it is not known."""
        found = self.part(part).get(key)
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    @property
    def device(self) -> str:
        """Return "cuda" or "cpu"."""
        return str(self.plan.get("device", "cpu"))

    @property
    def finished(self) -> bool:
        """Return whether training came to its end."""
        return any(END in record for record in self.records)

    @property
    def steps(self) -> int | None:
        """Return the steps of the whole run; None where nobody has told them."""
        found = self.plan.get("steps")
        return found if isinstance(found, int) and found > 0 else None

    @property
    def done(self) -> int:
        """Return the last step of which there is a record."""
        return max((r["step"] for r in self.records if isinstance(r.get("step"), int)), default=0)


def facts_in(folder: Path) -> Facts:
    """Read what is there of run.yaml, plan.json and log.jsonl.

    Raises:
        HybridOptError: one of them is there and cannot be read.
    """
    run = dict(_yaml(folder / RUN)) if (folder / RUN).exists() else {}
    made_with = run.pop(MADE_WITH, {})
    plan = plain_json.read(folder / PLAN, "the plan") if (folder / PLAN).exists() else {}
    records = read_log(folder / LOG) if (folder / LOG).exists() else []
    return Facts(run, made_with if isinstance(made_with, Mapping) else {}, plan, tuple(records))


def _yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise HybridOptError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, Mapping):
        raise HybridOptError(f"{path} must hold keys and values at the top")
    return found
