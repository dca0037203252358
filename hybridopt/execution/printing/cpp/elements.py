"""The C++ text of a `look` or an `update`: loops over the elements of each row."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..tracing.elements import ElementLine, Elements
from ..tracing.passes import RowPass, row_passes
from .loops import literals
from .tensors import FloatPiece

__all__ = ["Told", "look_lines", "update_lines"]

COLUMNS = "for (i64 column = 0; column < width; column += PIECE) {"
PIECE = (
    "const int n = (int)(width - column < PIECE ? width - column : PIECE);",
    "const i64 at = row * width + column;",
)


@dataclass(frozen=True)
class Told:
    """What the lines may read.

    Args:
        numbers: at which place the kernel is told every number of the step.
        places: where settled vectors lie: "r_", "c_" and "o_" with their names.
        pieces: how elements are read: "g", "p" and "s_<slot>".
    """

    numbers: dict[str, int]
    places: dict[str, str]
    pieces: dict[str, FloatPiece]

    def before(self, read: set[str]) -> list[str]:
        """Return lines before all rows: numbers, and where vectors lie."""
        out = [f"const float {x} = given.numbers[{i}];" for x, i in self.numbers.items() if x in read]
        for x, place in self.places.items():
            if x in read and x.startswith("o_"):
                out.append(f"const float {x} = *({place});")
            elif x in read:
                out.append(f"const float* RESTRICT at_{x} = {place};")
        return out

    def of_row(self, read: set[str]) -> list[str]:
        """Return lines at the beginning of every row."""
        return [f"const float {x} = at_{x}[row];" for x in self.places if x in read and x.startswith("r_")]

    def of_piece(self, read: set[str]) -> list[str]:
        """Return lines that read the elements of a piece."""
        return [line for x, piece in self.pieces.items() if x in read for line in piece.before]

    def of_element(self, read: set[str]) -> list[str]:
        """Return lines that name what is read of one element."""
        own = [f"const F {x} = load({piece.name} + i, some);" for x, piece in self.pieces.items() if x in read]
        columns = [x for x in self.places if x in read and x.startswith("c_")]
        return own + [f"const F {x} = load(at_{x} + column + i, some);" for x in columns]


def look_lines(
    look: Elements, told: Told, rows: dict[str, str], sums: dict[str, str], checked: bool = False
) -> list[str]:
    """Return the body of a `look` at the rows from `first` to `last`.

    Args:
        look: what is done.
        told: what is read.
        rows: where every vector that is found by row lies, by name.
        sums: where every sum is added up, by name.
        checked: return the largest bits of the gradient, in a template that says whether they are looked for.
    """
    lines = {line.name: line for line in look.lines}
    before, passes = row_passes(look)
    totals = {value: sums[name] for name, value in look.sums.items() if value in lines}
    read = {x for line in look.lines for x in line.reads}
    out = [*told.before(read)]
    out += [f"float* RESTRICT to_{x} = {place};" for x, place in totals.items() if lines[x].sums == "col"]
    ones = [x for x in totals if lines[x].sums == "one"]
    out += [f"float {x} = 0.f;" for x in ones]
    out += ["Seen seen;"] * checked
    body = [*told.of_row(read), *map(_assigned, before)]
    for i, one in enumerate(passes):
        body += [*_pass(one, told, checked and i == 0), *map(_assigned, one.after)]
    body += [f"({rows[name]})[row] = {literals(value)};" for name, value in look.rows.items()]
    out += ["for (i64 row = first; row < last; ++row) {", *_deeper(body), "}"]
    out += [f"*({totals[x]}) += {x};" for x in ones]
    return out + ["return CHECKED ? seen.most() : 0;"] * checked


def update_lines(update: Elements, told: Told, rate: str, result: str, written: Sequence[FloatPiece]) -> list[str]:
    """Return the body of an `update` of the rows from `first` to `last`.

    Args:
        update: what is done.
        told: what is read.
        rate: the number that the direction is multiplied with.
        result: what becomes of the new weight {x}.
        written: the pieces that are written.
    """
    scalar = [line for line in update.lines if line.kind in ("row", "one")]
    inner = [line for line in update.lines if line.kind in ("matrix", "col")]
    read = {x for line in update.lines for x in line.reads} | {"p", rate, "decay", update.direction}
    read |= {f"s_{slot}" for slot in update.state} | {*update.state.values()}
    each = [*told.of_element(read), *(_assigned(line) for line in inner)]
    states = [(told.pieces[f"s_{slot}"].name, value) for slot, value in update.state.items()]
    each += [f"store({name} + i, {literals(value)}, some);" for name, value in states]
    new = result.format(x=f"p * decay - {literals(update.direction)} * {rate}")
    each.append(f"store(weight + i, {new}, some);")
    loop = ["in_lanes(n, [&](int i, auto some) ALWAYS {", *_deeper(each), "});"]
    piece = [*PIECE, *told.of_piece(read), *loop, *(line for one in written for line in one.after)]
    body = [*told.of_row(read), *map(_assigned, scalar), COLUMNS, *_deeper(piece), "}"]
    begin = [line for one in written for line in one.begin]
    end = [line for one in written for line in one.end]
    rows = ["for (i64 row = first; row < last; ++row) {", *_deeper(body), "}"]
    return [*told.before(read), *begin, *rows, *end]


def _pass(one: RowPass, told: Told, checked: bool) -> list[str]:
    """Return one pass over a row: sums, and what they need of every element."""
    wanted = {x for line in (*one.summed, *one.inner) for x in line.reads}
    look = ["if (CHECKED) seen.add(k, bits_of(g), 0x7fffffffu);"] * checked
    each = _summed_up(one, [*told.of_element(wanted), *look])
    return [
        *(f"float {line.name} = 0.f;" for line in one.summed if line.sums == "row"),
        COLUMNS,
        *_deeper([*PIECE, *told.of_piece(wanted), *each]),
        "}",
    ]


def _summed_up(one: RowPass, named: list[str]) -> list[str]:
    """Return the loop over a piece, with several sums side by side, as each must wait for its own last addition."""
    reduced = [line for line in one.summed if line.sums != "col"]
    each = [*named, *map(_assigned, one.inner)]
    each += [f"{x.name}_of[k] = {x.name}_of[k] + kept({literals(x.text)}, some);" for x in reduced]
    for line in one.summed:
        if line.sums == "col":
            to = f"to_{line.name} + column + i"
            each.append(f"store({to}, load({to}, some) + {literals(line.text)}, some);")
    out = [f"F {line.name}_of[SUMS] = {{0.f, 0.f, 0.f, 0.f}};" for line in reduced]
    out += ["in_sums(n, [&](int i, int k, auto some) ALWAYS {", *_deeper(each), "});"]
    return out + [f"{line.name} += total({line.name}_of);" for line in reduced]


def _assigned(line: ElementLine) -> str:
    return f"const auto {line.name} = {literals(line.text)};"


def _deeper(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]
