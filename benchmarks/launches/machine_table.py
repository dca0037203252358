"""From the kernels that inductor would make to their table."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..shared.environment import environment
from ..shared.markdown import table
from ..shared.records import Records
from .bits import COMPARED
from .own_kernels import OWN
from .rows import BOUND

__all__ = ["MADE", "faults", "kernel_records", "kernel_table", "measure_bits", "measure_kernels"]

PROBED = ("mezo", "addax", "zo_adam")  # need a loss, and none is there
MADE = [name for name, row in BOUND.items() if row.policy not in PROBED]
HEAD = ["update", "graphs", "kernels", "buffers", "registers", "spilled bytes", "loads by bits", "stores by bits"]
TEXT = """
The kernels that inductor makes for sm_90 of one update of a 14336 x 4096 matrix, compiled by ptxas, not run: the most
registers of a thread, and how many accesses to global memory of so many bits stand in the code of all kernels. Where
there is Triton, the default split of frugal takes a kernel of the project instead.
"""

OWN_HEAD = ["update", "kernels", "at most", "registers", "spilled bytes", "loads by bits", "stores by bits"]
OWN_TEXT = """
The kernels that the project prints for the same update, compiled for the same device: what is launched where there is
Triton. Of rules with rounds each look is one, each end of a round one, unless it only adds up and the next kernel
begins with it, and the update one; where rows go by themselves one kernel makes all rounds.
"""
MOST = {  # kernels of one update
    **{"frugal": 1, "frugal, int8": 1, "adam_mini": 1, "adam_mini, int8": 1, "scale": 1},
    **{"adalomo": 4, "adafactor": 4, "adafactor, momentum": 5, "came": 6, "came, int8": 6, "sinkgd": 11},
}
ONE_PASS = ("adamw", "signsgd", "lion", "adamw, int8", "signsgd, fused", "adamw, fused")
CODES = 1e-4  # of numbers beside 8-bit state may differ, where a root of the CPU moves a scale
ORDER = 64 * 2.0**-23  # of the largest number: how far another order of sums may lead
BITS = """
The project's kernels in Triton's interpreter against the eager update on the CPU: how many numbers differ after two
steps. Square roots of the CPU are not all rounded to nearest, which shows in int8's scales. Rules with rounds add
their sums in another order; with the order of the kernels the eager update has the same bits (a test of the project).
"""


def kernel_records(folder: Path) -> Records:
    """Return the records of kernels that lie in a folder, one a row."""
    return Records(folder / "launches_kernels.jsonl", ("row",))


def measure_kernels(records: Records, names: Iterable[str]) -> None:
    """Make the kernels of some rows, each in a process of its own, and keep what they are like."""
    names = tuple(names)
    for name in names:
        records.put(_made("graphs", name))
    for name in [name for name in OWN if name in names or len(names) == len(MADE)]:
        records.put(_made("own_kernels", name))


def measure_bits(records: Records) -> None:
    """Run the project's own kernels in Triton's interpreter, and keep how many numbers differ from the CPU's."""
    for name in COMPARED:
        records.put(_made("bits", name, TRITON_INTERPRET="1"))


def _made(program: str, name: str, **variables: str) -> dict:
    """Run a program of this package on a row; return the record of what it has printed."""
    command = [sys.executable, "-m", f"{__package__}.{program}", name]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    said = done.stdout.strip().splitlines()
    found = json.loads(said[-1]) if said and not done.returncode else {"error": done.stderr.strip()[-300:]}
    return {"row": f"{program}: {name}", "found": found, "settings": {}, "environment": environment()}


def faults(record: dict) -> list[str]:
    """Return a sentence for everything that a record of kernels or of bits shows and may not.

    No kernel spills registers; elementwise updates are one kernel with accesses of 16 bytes, and nothing in between;
    the project's own kernels have the bits of the CPU, are no more than `MOST`, and read and write elements widely.
    """
    (program, name), found = record["row"].split(": "), record["found"]
    if "error" in found:
        return [f"{record['row']}: {found['error']}"]
    if program == "bits":
        return [f"{record['row']}: {text}" for text in _faults_of_bits(name, found)]
    if program == "own_kernels":
        return [f"{record['row']}: {text}" for text in _faults_of_own(name, found)]
    kernels = [one for graph in found["graphs"] for one in graph["kernels"]]
    wide = all("128" in one[kind] for one in kernels for kind in ("loads", "stores"))
    passes = len(kernels) == 1 and not any(graph["buffers"] for graph in found["graphs"]) and wide
    said = {"registers are spilled": any(one["spilled"] for one in kernels)}
    said["it is not one pass of wide accesses"] = name in ONE_PASS and not passes
    return [f"{record['row']}: {text}" for text, true in said.items() if true]


def _faults_of_bits(name: str, found: dict[str, list[float]]) -> list[str]:
    if "policy" in COMPARED[name]:  # a rule with rounds
        off = {what: more[0] for what, (_, _, *more) in found.items() if more[0] > ORDER}
        return [f"{what} is off by {most:.1e} of its largest number" for what, most in off.items()]
    part = CODES if "codec" in COMPARED[name] else 0
    differ = {what: n for what, (n, count, *_) in found.items() if n > part * count and not what.endswith("_absmax")}
    return [f"{n:,} numbers of {what} differ" for what, n in differ.items()]


def _faults_of_own(name: str, found: list[dict]) -> list[str]:
    said = [f"registers of {one['name']} are spilled" for one in found if one["spilled"]]
    said += [f"{len(found)} kernels, at most {MOST[name]}"] if len(found) > MOST[name] else []
    narrow = [one["name"] for one in found if not _wide(one)]
    return [*said, *(f"{kernel} has no accesses of 16 bytes" for kernel in narrow)]


def _wide(one: dict) -> bool:
    """Return whether a kernel reads and writes elements widely; what ends a round has none, and a look writes none."""
    kinds = {"settle": (), "look": ("loads",)}.get(one["name"].split("_")[0], ("loads", "stores"))
    return all("128" in one[kind] for kind in kinds)


def kernel_table(records: Records) -> str:
    """Return the tables of the kernels and of their bits; "" where none were made."""
    found = {record["row"]: record["found"] for record in records.all()}
    made = [_cells(name, found[f"graphs: {name}"]) for name in MADE if f"graphs: {name}" in found]
    bits = [_differing(name, found[f"bits: {name}"]) for name in COMPARED if f"bits: {name}" in found]
    own = [_own_cells(name, found[f"own_kernels: {name}"]) for name in OWN if f"own_kernels: {name}" in found]
    first = [TEXT, table(HEAD, made)] if made else []
    first += [OWN_TEXT, table(OWN_HEAD, own)] if own else []
    return "\n".join([*first, *([BITS, table(["update", "numbers that differ"], bits)] if bits else [])])


def _cells(name: str, found: dict) -> list[str]:
    if "error" in found:
        return [name, "failed", *[""] * (len(HEAD) - 2)]
    graphs = found["graphs"]
    kernels = [one for graph in graphs for one in graph["kernels"]]
    numbers = len(graphs), len(kernels), sum(graph["buffers"] for graph in graphs)
    registers, spilled = max(k["registers"] for k in kernels), sum(k["spilled"] for k in kernels)
    accesses = [_joined(k[kind] for k in kernels) for kind in ("loads", "stores")]
    return [name, *map(str, (*numbers, registers, spilled)), *accesses]


def _own_cells(name: str, found: Any) -> list[str]:
    if "error" in found:
        return [name, "failed", *[""] * (len(OWN_HEAD) - 2)]
    registers, spilled = max(one["registers"] for one in found), sum(one["spilled"] for one in found)
    accesses = [_joined(one[kind] for one in found) for kind in ("loads", "stores")]
    return [name, str(len(found)), str(MOST[name]), str(registers), str(spilled), *accesses]


def _differing(name: str, found: dict) -> list[str]:
    if "error" in found:
        return [name, "failed"]
    return [name, ", ".join(f"{what} {n:,} of {count:,}" for what, (n, count, *_) in found.items())]


def _joined(counts: Iterable[dict[str, int]]) -> str:
    found: dict[str, int] = {}
    for one in counts:
        found |= {bits: found.get(bits, 0) + n for bits, n in one.items()}
    return ", ".join(f"{bits}: {found[bits]}" for bits in sorted(found, key=int))
