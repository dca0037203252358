"""What a check has found: one line of the table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAIL", "OK", "REPORT", "SKIPPED", "STATES", "WARN", "Finding"]

OK, WARN, FAIL, SKIPPED = STATES = ("ok", "warn", "fail", "skipped")
REPORT = "report this line, with the output of `hybridopt doctor --json`"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it.

    Args:
        name: of what was looked at.
        state: "ok", "warn" (works, but slower or less), "fail", or "skipped".
        value: what was found, for people.
        cure: what to install, change or report; needed where something is wrong.
        numbers: what was measured, by name with its unit, for programs.
        speeds: bytes a second that plans may count on, by the name that a `Host` has for them.
        kind: of the check; filled in by whoever runs it.
        seconds: that the whole check took; likewise.
    """

    name: str
    state: str
    value: str
    cure: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)
    kind: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        assert self.state in STATES, self.state
        assert self.cure or self.state in (OK, SKIPPED), f"{self.name}: say what to do"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinite numbers."""
        plain = {key: vars(self)[key] for key in ("kind", "name", "state", "value", "cure")}
        numbers = {key: value for key, value in self.numbers.items() if math.isfinite(value)}
        return plain | {"numbers": numbers, "seconds": round(self.seconds, 3)}
