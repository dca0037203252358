"""Measure on a GPU all that needs one: correctness, counts, speed, memory, 70B, and pre-training, in minutes.

Each part is a process of its own with a time limit; one that fails, hangs or does not fit costs only itself.
Everything is in one file, gpu.json, written anew whenever a row has come, so that whatever stops this command costs at
most the row that is being measured; gpu.log has what the parts have said. A table is printed after every part, and at
the end what was aimed at, reached or missed. benchmarks/gpu.sh starts it with what a bare machine lacks.
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..shared.command_line import console, parser
from ..shared.places import RESULTS
from .driver import LOG, Driver
from .line import Line
from .machine import look
from .parts import PARTS, Part
from .results import FILE, Results
from .views import VIEWS

MARKS = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    command = parser("gpu", __doc__)
    command.set_defaults(out=RESULTS / "gpu")
    names = [part.name for part in PARTS]
    command.add_argument("--dry", action="store_true", help="everything in tiny form on a CPU")
    command.add_argument("--only", nargs="+", choices=names, metavar="PART", default=names, help=f"of {names}")
    command.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    command.add_argument("--data", type=Path, help="folder of real text; gpu.sh looks for one")
    return command.parse_args(arguments)


class Teller:
    """Says on the terminal what happens."""

    def __init__(self, screen: Console, results: Results):
        self.screen, self.results, self._start = screen, results, time.monotonic()

    def __call__(self, part: Part, begins: bool) -> None:
        """Say that a part begins, or how it has ended, with its table."""
        now = f"{time.monotonic() - self._start:5.0f} s"
        if begins:
            self.screen.print(f"{now}  {part.name}: {part.shows}", markup=False, highlight=False)
            return
        self.screen.print(f"{now}  {part.name}: {self.results.ended(part.name)}", markup=False, highlight=False)
        if lines := self.results.lines(part.name):
            self.screen.print(table(VIEWS[part.name].columns, lines))

    def close(self) -> None:
        """Say what was aimed at, and whether it was reached."""
        lines = [Line((name, *line.cells[:1]), line.aim, line.reached) for name, line in self.results.verdicts()]
        if lines:
            self.screen.print(table(("part", "of"), lines))
        why = f", which could not be written: {self.results.unwritten}" if self.results.unwritten else ""
        self.screen.print(f"all numbers: {self.results.path}{why}", markup=False, highlight=False)


def table(columns: tuple[str, ...], lines: list[Line]) -> Table:
    """Return a table for the terminal, with aims and marks where there are some."""
    found = Table(box=box.SIMPLE, pad_edge=False)
    for number, column in enumerate((*columns, "aim", "")):
        found.add_column(column, justify="right" if 0 < number < len(columns) and column != "result" else "left")
    for line in lines:
        room = [""] * (len(columns) - len(line.cells))
        found.add_row(*line.cells, *room, line.aim, MARKS[line.reached])
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    screen, began = console(), time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / LOG).write_bytes(b"")  # here it is seen whether anything can be written there
    machine = look("cpu" if options.dry else "cuda")
    about = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "minutes": options.minutes}
    results = Results(options.out / FILE, machine, about)
    results.write()
    teller = Teller(screen, results)
    with tempfile.TemporaryDirectory() as folder:
        seconds = 60 * options.minutes - (time.monotonic() - began)
        data = options.data if options.data and options.data.is_dir() else None
        driver = Driver(machine, results, seconds, Path(folder), teller, data)
        driver.run([part for part in PARTS if part.name in options.only])
    teller.close()


if __name__ == "__main__":
    main()
