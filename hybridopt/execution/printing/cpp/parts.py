"""The functions of a printed C++ kernel that find the elements of each part, and the entry."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Blocks", "columns", "flat", "flat_in_rows", "rows"]

FLAT = """\
static void piece(const Task& task, const Given& given, i64 at, int n) {{
{lines}}}

extern "C" void hybridopt_run(const Given* given) {{
    const i64 some = at_a_time(*given, elements_of, CHUNK, LONGEST) / PIECE * PIECE;
    in_chunks(*given, elements_of, [=](const Task&) {{ return some; }},
              [&](const Task& task, i64 first, i64 last) {{
                  in_turns<{places}>(first, last, {step}, 4, [&](i64 at, i64 end) {{
                      piece(task, *given, at, (int)(end - at));
                  }});
              }});
}}
"""
IN_ROWS = """\
if (task.width < 64) {{  // too short to begin anew in each
{made}    return;
}}
in_rows(at, n, task.width, [&](i64 at, int n, i64 row, i64 column) ALWAYS {{
{by_row}}});
"""
BY_ROWS = """\
static void whole_row(const Task& task, const Given& given, i64 row) {{
{row}}}

extern "C" void hybridopt_run(const Given* given) {{
    const i64 some = at_a_time(*given, elements_of, CHUNK, LONGEST);
    in_chunks(*given, [](const Task& task) {{ return task.rows; }},
              [=](const Task& task) {{ return task.width < some ? some / task.width : (i64)1; }},
              [&](const Task& task, i64 first, i64 last) {{
                  in_turns<{places}>(first, last, 1, 4 * task.width, [&](i64 row, i64) {{
                      whole_row(task, *given, row);
                  }});
              }});
}}
"""
IN_BLOCKS = """\
// The first row from there on with which a block of state begins.
static i64 begin(const Task& task, i64 row) {{
{begin}}}

static void whole_rows(const Task& task, const Given& given, i64 first, i64 last) {{
{opened}    for (i64 row = first; row < last; ++row) {{
{row}    }}
{closed}}}

extern "C" void hybridopt_run(const Given* given) {{
    const i64 some = at_a_time(*given, elements_of, CHUNK, LONGEST);
    in_chunks(*given, [](const Task& task) {{ return task.rows; }},
              [=](const Task& task) {{ return task.width < some ? some / task.width : (i64)1; }},
              [&](const Task& task, i64 first, i64 last) {{
                  whole_rows(task, *given, begin(task, first), begin(task, last));
              }});
}}
"""
ROWS = """\
const i64 place = ((const i64*)task.at[CHOSEN])[row];  // among the chosen rows; -1 for the others
for (i64 column = 0; column < task.width; column += PIECE) {{
    const int n = (int)(task.width - column < PIECE ? task.width - column : PIECE);
    const i64 at = row * task.width + column;
    if (place < 0) {{
{free}    }} else {{
        const i64 own = place * task.width + column;
{full}    }}
}}
"""
COLUMNS = """\
i64 own = row * task.count;
for (i64 column = 0; column < task.width; column += {step}) {{
    const int n = (int)(task.width - column < {step} ? task.width - column : {step});
    const u16* mask = (const u16*)task.at[CHOSEN] + column / 16;
    const i64 at = row * task.width + column;
    alignas(64) float low[{size} + SLACK], low_grad[{size} + SLACK];
    const int count = pack(low, {weight}, low_grad, {grad}, mask, n);
{full}    int next = 0;
    {free}
    own += count;
}}
"""
WIDE = 1 << 14  # columns of which the chosen ones are packed at once, where the state has blocks
COLUMNS_BEGIN = """\
const i64 own = rows_together(BLOCK, task.count), next = (row + own - 1) / own * own;
return next < task.rows ? next : task.rows;
"""
ROWS_BEGIN = """\
const i64* place = (const i64*)task.at[CHOSEN];
while (0 < row && row < task.rows && (place[row] < 0 || place[row] * task.width % BLOCK)) ++row;
return row;
"""


@dataclass(frozen=True)
class Blocks:
    """Lines around all rows that a thread takes, where the state has blocks: these may go on in the next row.

    Args:
        opened: that declare the blocks.
        closed: that write the last ones.
    """

    opened: Sequence[str]
    closed: Sequence[str]


def flat(lines: Sequence[str], places: int = 2, step: str = "PIECE") -> str:
    """Return the functions for elements that lie in a row.

    Args:
        lines: which move n of them from `at` on.
        places: at how many of them a thread reads in turns.
        step: the most elements that the lines move at a time, in C++.
    """
    return FLAT.format(lines=_deeper(lines), places=places, step=step)


def flat_in_rows(made: Sequence[str], by_row: Sequence[str]) -> str:
    """Return the same for random bits by row.

    Args:
        made: lines that make all random bits of a piece before.
        by_row: lines for what lies in one row.
    """
    return flat(IN_ROWS.format(made=_deeper(made), by_row=_deeper(by_row)).splitlines())


def rows(full: Sequence[str], free: Sequence[str], blocks: Blocks | None) -> str:
    """Return the functions for chosen rows and the others.

    Args:
        full: lines for a chosen row, whose state begins at `own`.
        free: lines for any other.
        blocks: of the state; None where it has none.
    """
    row = ROWS.format(full=_deeper(full, 8), free=_deeper(free, 8))
    return _by_rows(row, 2) if blocks is None else _in_blocks(row, blocks, ROWS_BEGIN)


def columns(weight: str, grad: str, full: Sequence[str], free: str, blocks: Blocks | None) -> str:
    """Return the functions for chosen columns and the others.

    Args:
        weight: the struct of the weight.
        grad: the struct of the gradient.
        full: lines that move `count` packed elements, `low` and `low_grad`.
        free: the line that moves all, and takes the packed ones in.
        blocks: of the state; None where it has none.
    """
    # what is read of a weight does not depend on its random bits, and `count` is not known yet
    plain = weight.split(", Mixed")[0].replace("bf16_by(", "Bf16{") + "}" if ", Mixed" in weight else weight
    step = "PIECE" if blocks is None else str(WIDE)
    size = "PIECE" if blocks is None else f"(task.count < {WIDE} ? task.count : {WIDE})"
    row = COLUMNS.format(step=step, size=size, weight=plain, grad=grad, full=_deeper(full), free=free)
    # what is packed waits less
    return _by_rows(row, 1) if blocks is None else _in_blocks(row, blocks, COLUMNS_BEGIN)


def _by_rows(row: str, places: int) -> str:
    return BY_ROWS.format(row=_deeper(row.splitlines()), places=places)


def _in_blocks(row: str, blocks: Blocks, begin: str) -> str:
    parts = {"opened": _deeper(blocks.opened), "closed": _deeper(blocks.closed), "begin": _deeper(begin.splitlines())}
    return IN_BLOCKS.format(row=_deeper(row.splitlines(), 8), **parts)


def _deeper(lines: Sequence[str], by: int = 4) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in lines)
