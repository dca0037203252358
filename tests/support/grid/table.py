"""The table of what can be combined; `PYTHONPATH=tests python -m support.grid.table --write` puts it on its page."""

import re
import sys
from dataclasses import replace
from itertools import combinations

from benchmarks.shared.readme_marks import Block
from support.grid.cells import ADAPTERS, CODECS, FREE, RELEASES, RULES, SOURCES, SPLITS, STORES, Cell, refusal

OTHERS = {"source": SOURCES, "codec": CODECS, "store": STORES, "release": RELEASES, "adapters": ADAPTERS}
INTRO = """A tick is a combination that trains with every source, codec, store, release and kind of adapter:
`tests/grid/` walks them and checks that weights, state and bytes are what was asked for: with `backprop` all of them
(`pytest tests/grid --whole-grid`; without it a sixth, in which every two codecs, stores and adapters meet under every
rule, and under every split), with other sources each under every rule and split. A number is one that is refused
before anything is changed, for the reason below. Under `empty` there is nothing for `full` to do, under `whole`
nothing for `free`.
"""


def table():
    """All of it, as Markdown."""
    reasons = []
    lines = [f"| | {' | '.join(f'`{s}`' for s in SPLITS)} |", "|---" * (len(SPLITS) + 1) + "|"]
    for axis, names in (("full", RULES), ("free", FREE)):
        for name in names:
            marks = (_mark(Cell(**{axis: name}, split=split), reasons) for split in SPLITS)
            lines.append(f'| `{axis}="{name}"` | {" | ".join(marks)} |')
    lines = [INTRO, *lines, "", *_others(reasons), _conservative(reasons)]
    return "\n".join([*lines, "", "Reasons:", "", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1)), ""])


def _others(reasons):
    """A line for each of the other axes: its values, and with which ones of other axes they are refused."""
    bad = {axis: [] for axis in OTHERS}
    for one, two in combinations(OTHERS, 2):
        for x in OTHERS[one]:
            for y in OTHERS[two]:
                mark = _mark(Cell(**{one: x, two: y}), reasons)
                if mark != "✓":
                    bad[two].append(f"{y} with {one} `{x}` {mark}")
    for axis, values in OTHERS.items():
        but = f"; refused: {', '.join(bad[axis])}" if bad[axis] else ""
        yield f"- {axis}: {', '.join(f'`{v}`' if axis != 'adapters' else v for v in values)}{but}"


def _conservative(reasons):
    """A line for the option that asks for certain rules."""
    bad = {axis: [n for n in rules if _refused_trying(axis, n)] for axis, rules in (("full", RULES), ("free", FREE))}
    fit = {axis: [n for n in rules if n not in bad[axis]] for axis, rules in (("full", RULES), ("free", FREE))}
    mark = _mark(Cell(free="sgd", source="spsa", conservative=True), reasons)
    only = " and ".join(f"{axis} {', '.join(f'`{n}`' for n in names)}" for axis, names in fit.items())
    return f"- source `spsa` with `conservative=True`: {only}; refused: all other rules {mark}"


def _refused_trying(axis, rule):
    cell = replace(Cell("sgd", "sgd", source="spsa", conservative=True), **{axis: rule})
    return refusal(cell) is not None


def _mark(cell, reasons):
    reason = refusal(cell)
    if reason is None:
        return "✓"
    reason = _short(reason)
    if reason not in reasons:
        reasons.append(reason)
    return f"({reasons.index(reason) + 1})"


def _short(reason):
    """Without the parameter, the shape and the rule that it was found at."""
    reason = re.sub(r"^parameter '[^']*' \(role '\w+', shape \([^)]*\)\): ", "", reason)
    reason = re.sub(r", got shape \([^)]*\)", "", reason)
    return re.sub(r"^full='\w+' needs", "the rule needs", reason)


BLOCK = Block("grid", "PYTHONPATH=tests python -m support.grid.table --write", lambda _: table())

if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        BLOCK.write([])
    else:
        print(table())
