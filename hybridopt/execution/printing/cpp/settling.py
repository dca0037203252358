"""The C++ text of a `settle`: loops over vectors that lie in the room of a kernel."""

from itertools import groupby

from ..tracing.settling import Settling, Vector
from .loops import literals
from .room import Room

__all__ = ["settle_lines"]


def settle_lines(settling: Settling, room: Room, places: dict[str, str], numbers: dict[str, int]) -> list[str]:
    """Return the lines of a `settle`, and put the places of its results into `places`.

    Args:
        settling: what is done.
        room: of the kernel; grows by what has to be kept.
        places: where every vector that is given lies, or "=" and its text; changed.
        numbers: at which place the kernel is told every number.
    """
    return _Printer(settling, room, places, numbers).lines()


class _Printer:
    def __init__(self, settling: Settling, room: Room, places: dict[str, str], numbers: dict[str, int]):
        self._settling, self._room, self._places, self._numbers = settling, room, places, numbers
        self._prefix = f"settled {len(room.places)} "
        self._group = {line.name: i for i, some in enumerate(self._grouped()) for line in some}

    def lines(self) -> list[str]:
        out = self._given()
        for group in self._grouped():
            out += self._loop(group) if _looped(group[0]) else self._single(group[0])
        return out + self._results() + self._state()

    # ---- what is read

    def _given(self) -> list[str]:
        read, out = self._settling.read, list[str]()
        for name, length in self._settling.given.items():
            if name not in read:
                continue
            if name.startswith("n_"):
                out.append(f"const float {name} = given.numbers[{self._numbers[name]}];")
            elif length == "1":
                out.append(f"const float {name} = {self._value(name)};")
            else:
                out.append(f"const float* at_{name} = {self._places[name]};")
        return out

    def _value(self, name):
        place = self._places[name]
        return place[1:] if place.startswith("=") else f"*({place})"

    # ---- what is done

    def _grouped(self) -> list[list[Vector]]:
        """Return the lines, those together that one loop can do."""
        found: list[list[Vector]] = []
        for (looped, _), group in groupby(self._settling.lines, key=lambda line: (_looped(line), line.length)):
            some = list(group)
            found += [some] if looped else [[line] for line in some]
        return found

    def _kept(self, line: Vector) -> bool:
        """Return whether a vector is read after the loop that makes it."""
        own = self._group[line.name]
        later = any(line.name in other.reads and self._group[other.name] != own for other in self._settling.lines)
        return later or line.name in (*self._settling.results.values(), *self._settling.state.values())

    def _loop(self, group: list[Vector]) -> list[str]:
        made = {line.name for line in group}
        kept = [line for line in group if self._kept(line)]
        read = dict.fromkeys(x for line in group for x in line.reads if self._settling.length(x) != "1")
        out = [self._place(line) for line in kept]
        out += ["#pragma omp simd", _loop_over(group[0].length) + " {"]
        out += [f"    const float {x} = at_{x}[i];" for x in read if x not in made]
        out += [f"    const auto {line.name} = {literals(line.text)};" for line in group]
        out += [f"    at_{line.name}[i] = {line.name};" for line in kept]
        return [*out, "}"]

    def _place(self, line: Vector) -> str:
        return f"float* at_{line.name} = {self._room.add(self._prefix + line.name, line.length)};"

    def _single(self, line: Vector) -> list[str]:
        name, read = line.name, line.reads[0] if line.reads else ""
        if line.how == "each":
            return [f"const float {name} = {literals(line.text)};"]
        if line.how == "sum":
            loop = f"{_loop_over(self._settling.length(read))} {name} += at_{read}[i];"
            return [f"float {name} = 0.f;", f"#pragma omp simd reduction(+ : {name})", loop]
        if line.how == "cut":
            if line.length == "1":
                return [f"const float {name} = at_{read}[{line.start}];"]
            return [f"const float* at_{name} = at_{read} + {line.start};"]
        lines = [self._place(line)]
        if line.how == "sums":
            lines += [
                f"for (i64 i = 0; i < {line.length}; ++i) {{",
                "    float sum = 0.f;",
                f"    for (i64 j = 0; j < {line.every}; ++j) sum += at_{read}[i * {line.every} + j];",
                f"    at_{name}[i] = sum;",
                "}",
            ]
        elif line.how == "repeat":
            lines.append(f"for (i64 i = 0; i < {line.length}; ++i) at_{name}[i] = at_{read}[i / {line.every}];")
        else:
            start: list[str] = []
            for x in line.reads:
                length = self._settling.length(x)
                value = x if length == "1" else f"at_{x}[i]"
                to = " + ".join(["i", *start])
                lines.append(f"for (i64 i = 0; i < {length}; ++i) at_{name}[{to}] = {value};")
                start.append(length)
        return lines

    # ---- what comes of it

    def _results(self) -> list[str]:
        out, kinds = [], self._settling.kinds
        made = {line.name: line for line in self._settling.lines}
        for name, value in self._settling.results.items():
            known = f"{kinds[name][0]}_{name}"
            if self._settling.length(value) == "1":
                place = self._room.add(self._prefix + known, "1")
                out.append(f"*({place}) = {literals(value)};")
            elif value in made and made[value].how != "cut":
                place = self._room.places[self._prefix + value]
            elif value in made:
                place = self._room.add(self._prefix + known, made[value].length)
                out.append(f"memcpy({place}, at_{value}, 4 * {made[value].length});")
            else:
                place = self._places[value]
            self._places[known] = place
        return out

    def _state(self) -> list[str]:
        out = []
        for slot, value in self._settling.state.items():
            place, length = self._places[f"s_{slot}"], self._settling.length(value)
            own = self._settling.given[f"s_{slot}"]
            if length == "1" and own == "1":
                out.append(f"*({place}) = {literals(value)};")
            elif length == "1":
                out.append(f"for (i64 i = 0; i < {own}; ++i) ({place})[i] = {literals(value)};")
            else:
                out.append(f"{_loop_over(own)} ({place})[i] = at_{value}[i];")
        return out


def _loop_over(length: str) -> str:
    """Return the head of a loop over a vector, or over those of its rows that are asked for."""
    return f"for (i64 i = {'first' if length == 'rows' else 0}; i < {'last' if length == 'rows' else length}; ++i)"


def _looped(line: Vector) -> bool:
    return line.how == "each" and line.length != "1"
