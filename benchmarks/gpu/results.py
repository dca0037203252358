"""One file of everything that is known, written anew whenever there is more."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shared.files import write
from .line import Line
from .machine import Machine
from .parts import Part
from .views import VIEWS
from .work import Work

FILE = "gpu.json"


@dataclass
class Results:
    """How every part ended and what it found.

    Args:
        path: the file.
        machine: on which it was found.
        about: what else is recorded beside.
        unwritten: why the file could not be written the last time; "" if it was.
    """

    path: Path
    machine: Machine
    about: dict[str, Any] = field(default_factory=dict)
    _parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    unwritten: str = ""
    _written: str = ""

    def left_out(self, part: Part, why: str) -> None:
        """Remember why a part was not begun."""
        self._parts[part.name] = {"part": part.name, "shows": part.shows, "ended": f"skipped: {why}", "rows": []}

    def take(self, work: Work) -> None:
        """Remember what a part has found so far."""
        found: dict[str, Any] = {"part": work.part.name, "shows": work.part.shows, "ended": work.ended or "at work"}
        found |= {"seconds": round(work.took, 1), "limit": round(work.seconds), "rows": work.rows()}
        found |= {"command": f"python -m {work.part.module} {' '.join(work.arguments)}"}
        if work.ended.startswith("failed"):
            found["output"] = work.said()
        self._parts[work.part.name] = found

    def ended(self, name: str) -> str:
        """Return how a part ended, "" if nothing is known of it."""
        return self._parts.get(name, {}).get("ended", "")

    def lines(self, name: str) -> list[Line]:
        """Return the table of a part, without its header; what cannot be told is a line that says so."""
        rows = {part: found["rows"] for part, found in self._parts.items()}
        if not rows.get(name):
            return []
        try:
            return VIEWS[name].lines(rows, self.machine)
        except (
            Exception
        ) as error:  # such as of a row that is only half there: the numbers are in the file all the same
            return [Line((f"{name}: no table",), f"{type(error).__name__}: {error}"[:200])]

    def verdicts(self) -> list[tuple[str, Line]]:
        """Return the name of the part and the line of everything for which there is an aim."""
        return [(name, line) for name in self._parts for line in self.lines(name) if line.reached is not None]

    def write(self) -> None:
        """Publish everything in one move; nothing where nothing is new."""
        parts = [
            found | {"verdicts": [x.as_dict() for x in self.lines(name) if x.reached is not None]}
            for name, found in self._parts.items()
        ]
        plain = {"environment": self.machine.environment, "device": self.machine.device, "total": self.machine.total}
        text = json.dumps(plain | self.about | {"parts": parts}, ensure_ascii=False, indent=1) + "\n"
        if text == self._written:
            return
        try:
            write(self.path, text)
        except OSError as error:  # such as of a full disk: tables are printed all the same, and it is tried again
            self.unwritten = str(error)
        else:
            self._written, self.unwritten = text, ""
