"""The functions of a printed C++ kernel that find the elements of each part, and the entry."""

from collections.abc import Sequence

__all__ = ["columns", "flat", "flat_in_rows", "rows"]

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
BY_ROWS = """
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
ROWS = """\
static void whole_row(const Task& task, const Given& given, i64 row) {{
    const i64 place = ((const i64*)task.at[CHOSEN])[row];  // among the chosen rows; -1 for the others
    for (i64 column = 0; column < task.width; column += PIECE) {{
        const int n = (int)(task.width - column < PIECE ? task.width - column : PIECE);
        const i64 at = row * task.width + column;
        if (place < 0) {{
{free}        }} else {{
            const i64 own = place * task.width + column;
{full}        }}
    }}
}}
"""
COLUMNS = """\
static int piece(const Task& task, const Given& given, i64 row, i64 column, int n, i64 own) {{
    const u16* mask = (const u16*)task.at[CHOSEN] + column / 16;
    const i64 at = row * task.width + column;
    alignas(64) float low[{size} + SLACK], low_grad[{size} + SLACK];
    const int count = pack(low, {weight}, low_grad, {grad}, mask, n);
{full}    int next = 0;
    {free}
    return count;
}}

static void whole_row(const Task& task, const Given& given, i64 row) {{
    i64 own = row * task.count;
    for (i64 column = 0; column < task.width; column += {step}) {{
        const int n = (int)(task.width - column < {step} ? task.width - column : {step});
        own += piece(task, given, row, column, n, own);
    }}
}}
"""


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


def rows(full: Sequence[str], free: Sequence[str]) -> str:
    """Return the functions for chosen rows and the others.

    Args:
        full: lines for a chosen row, whose state begins at `own`.
        free: lines for any other.
    """
    return ROWS.format(full=_deeper(full, 12), free=_deeper(free, 12)) + BY_ROWS.format(places=2)


def columns(weight: str, grad: str, full: Sequence[str], free: str, whole: bool) -> str:
    """Return the functions for chosen columns and the others.

    Args:
        weight: the struct of the weight.
        grad: the struct of the gradient.
        full: lines that move `count` packed elements, `low` and `low_grad`.
        free: the line that moves all, and takes the packed ones in.
        whole: are all columns of a row done at once, so that its blocks are whole?
    """
    # what is read of a weight does not depend on its random bits, and `count` is not known yet
    plain = weight.split(", Mixed")[0].replace("bf16_by(", "Bf16{") + "}" if ", Mixed" in weight else weight
    size, step = ("task.count", "task.width") if whole else ("PIECE", "PIECE")
    lines = {"weight": plain, "grad": grad, "full": _deeper(full), "free": free}
    return COLUMNS.format(size=size, step=step, **lines) + BY_ROWS.format(places=1)  # what is packed waits less


def _deeper(lines: Sequence[str], by: int = 4) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in lines)
