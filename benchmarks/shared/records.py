"""Records of measurements: a file of JSON lines a table, a line a record."""

import json
from dataclasses import dataclass
from pathlib import Path

from hybridopt.core.files.lock import locked

from .files import write

WAIT = 60.0  # seconds for another process that is writing


@dataclass(frozen=True)
class Records:
    """The records of one table, in the order in which they were made.

    Every change writes the file anew under a lock of its folder and publishes it in one move. So a process that is
    killed costs no record that was there, and several processes can write at once.

    path: the file, which need not exist. fields: what tells one record from all others, by name; each is a field of
    the record or of its "settings".
    """

    path: Path
    fields: tuple[str, ...]

    def all(self) -> list[dict]:
        """Return every record; ValueError names a line that is none."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [self._parsed(number, line) for number, line in enumerate(lines, 1)]

    def some(self) -> list[dict]:
        """Return every record; SystemExit if there is none yet."""
        if not (found := self.all()):
            raise SystemExit(f"no results in {self.path} yet: measure first")
        return found

    def find(self, settings: dict | None = None, **identity: object) -> dict | None:
        """Return the record of this identity, or None.

        Args:
            settings: what the record must have been made with; other settings of the record do not matter.
            **identity: a value for each of `fields`.

        Raises:
            ValueError: there is such a record, made with other settings.
        """
        wanted = tuple(identity[field] for field in self.fields)
        record = next((one for one in self.all() if self._identity(one) == wanted), None)
        if record is not None:
            self.check(record, settings or {})
        return record

    def check(self, record: dict, settings: dict) -> None:
        """Raise ValueError if a record was made with other settings than these."""
        other = sorted(key for key in settings if record["settings"].get(key) != settings[key])
        if other:
            was, now = ({key: source.get(key) for key in other} for source in (record["settings"], settings))
            name = dict(zip(self.fields, self._identity(record), strict=True))
            raise ValueError(f"{self.path}: {name} was made with {was}, not {now}; choose another folder with --out")

    def put(self, record: dict) -> None:
        """Keep a record in the place of the one with its identity, or at the end if there is none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent, exclusive=True, wait=WAIT):
            there = {self._identity(one): one for one in self.all()}
            there[self._identity(record)] = record
            lines = (json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in there.values())
            write(self.path, "".join(f"{line}\n" for line in lines))

    def clear(self) -> None:
        """Forget all records, so that everything is measured anew."""
        self.path.unlink(missing_ok=True)

    def _identity(self, record: dict) -> tuple:
        return tuple(record[field] if field in record else record["settings"][field] for field in self.fields)

    def _parsed(self, number: int, line: str) -> dict:
        try:
            return json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {number} is no record ({error}): mend or remove the line") from error
