"""The lines of a program of a `settle`: loops over vectors in memory, or over rows for some columns in registers."""

from ..cpp.room import Room
from ..tracing.settling import Settling, Vector
from .schedule import LoopGroup, needed, scheduled
from .tiles import deeper

__all__ = ["ColumnsOfSettle", "WholeOfSettle"]

ONE = "16"  # room of a single number, so that vectors behind it are aligned


class WholeOfSettle:
    """The lines of one program: loops over vectors, which lie in the room where a later loop reads them.

    Args:
        settling: what was traced of the rule's `settle`.
        room: where vectors lie between the kernels of an update.
        given: of every vector that is given, its address, or "=" and the text of a number.
        places: of every slot of the state, its address.
    """

    def __init__(self, settling: Settling, room: Room, given: dict[str, str], places: dict[str, str]):
        self._settling, self._room, self._given, self._places = settling, room, given, places
        self._prefix = f"settled {len(room.places)} "
        self._at: dict[str, str] = dict(given)  # where vectors lie
        self._stored: set[str] = set()  # slots that have their new value already

    def lines(self, values: set[str]) -> list[str]:
        """Return what has to be done for some of the values that come of it."""
        if not values:
            return []
        self._wanted = values
        self._groups = scheduled(needed(self._settling, values))
        out = self._numbers() + self._begin()
        for group in self._groups:
            out += self._of(group)
        return out + self._results() + self._state()

    # ---- what is read

    def _read(self) -> set[str]:
        return {x for group in self._groups for line in group.lines for x in line.reads} | self._wanted

    def _numbers(self) -> list[str]:
        """Return lines that name the single numbers that are given."""
        out = []
        for name, length in self._settling.given.items():
            if name in self._read() and length == "1" and not name.startswith("n_"):
                out.append(f"{name} = {self._number(name, self._given[name])}")
        return out

    def _number(self, name: str, place: str) -> str:
        if place.startswith("="):
            return place[1:]
        return f"summed({place}, parts, BS)" if name.startswith("m_") else f"tl.load({place})"

    def _begin(self) -> list[str]:
        return []

    def _load(self, name: str, at: str, there: str, fold: str) -> str:
        """Return the line that reads a vector.

        Args:
            name: of it.
            at: the entries.
            there: which of them there are.
            fold: how many lines are added up at once, where it is a sum over programs.
        """
        place = self._at[name]
        if name.startswith("m_"):
            return f"{name} = folded({place}, parts, width, {at}, {there}, {fold})"
        return f"{name} = tl.load({place} + {at}, mask={there}, other=0.0)"

    # ---- what is done

    def _of(self, group: LoopGroup) -> list[str]:
        if group.length is not None:
            return self._loop(group)
        return self._single(group.lines[0])

    def _kept(self, name: str, group: LoopGroup) -> bool:
        """Return whether a vector is read after the loop that makes it, or comes of it."""
        return name in group.later(self._groups) or name in self._wanted - self._only_state(group)

    def _only_state(self, group: LoopGroup) -> set[str]:
        """Return the new values of slots that are written in their loop, and are no result besides."""
        states = {x for slot, x in self._settling.state.items() if self._free(slot, group)}
        return states - {*self._settling.results.values()}

    def _loop(self, group: LoopGroup) -> list[str]:
        made = [line.name for line in group.lines]
        kept = [name for name in made if self._kept(name, group)]
        length = self._settling.length
        read = dict.fromkeys(x for line in group.lines for x in line.reads if length(x) != "1" and x not in made)
        for name in kept:
            self._at[name] = self._room.add(self._prefix + name, group.length or "")
        body = ["j = start + tl.arange(0, BS)", f"there = j < {group.length}"]
        body += [self._load(x, "j", "there", "1") for x in read]
        body += [f"{line.name} = {line.text}" for line in group.lines]
        body += [f"{line.name}_of += tl.where(there, {line.reads[0]}, 0.0)" for line in group.sums]
        body += [f"tl.store({self._at[name]} + j, {name}, mask=there)" for name in kept]
        states = {slot: x for slot, x in self._settling.state.items() if x in made and self._free(slot, group)}
        body += [f"tl.store({self._places[f's_{slot}']} + j, {x}, mask=there)" for slot, x in states.items()]
        self._stored |= states.keys()
        out = ["tl.debug_barrier()"] * any(x not in self._given for x in read)
        out += [f"{line.name}_of = tl.zeros([BS], tl.float32)" for line in group.sums]
        out += [f"for start in range(0, {group.length}, BS):", *deeper(body)]
        return out + [f"{line.name} = tl.sum({line.name}_of, 0)" for line in group.sums]

    def _free(self, slot: str, group: LoopGroup) -> bool:
        """Return whether a slot can be written in the loop that makes its new value, as no other reads the old one."""
        others = {x for one in self._groups if one is not group for line in one.lines for x in line.reads}
        length = self._settling.given[f"s_{slot}"]
        return length == group.length and f"s_{slot}" not in others | {*self._settling.results.values()}

    def _single(self, line: Vector) -> list[str]:
        if line.how == "each":
            return [f"{line.name} = {line.text}"]
        return ["tl.debug_barrier()", *self._moved(line)]

    def _moved(self, line: Vector) -> list[str]:
        """Return the lines of what moves numbers from one vector in memory to another."""
        name, read = line.name, line.reads[0]
        if any(x.startswith("m_") for x in line.reads):
            raise NotImplementedError("sums over programs are not in memory as one vector")
        if line.how == "sum":
            return [f"{name} = summed({self._at[read]}, {self._settling.length(read)}, BS)"]
        if line.how == "cut":
            place = f"{self._at[read]} + {line.start}"
            self._at[name] = place
            return [f"{name} = tl.load({place})"] if line.length == "1" else []
        self._at[name] = to = self._room.add(self._prefix + name, line.length)
        loop = f"for start in range(0, {line.length}, BS):"
        every = {"j": "start + tl.arange(0, BS)", "there": f"j < {line.length}"}
        body = [f"{x} = {text}" for x, text in every.items()]
        if line.how == "repeat":
            body.append(f"tl.store({to} + j, tl.load({self._at[read]} + j // {line.every}, mask=there), mask=there)")
            return [loop, *deeper(body)]
        if line.how == "sums":
            body += [f"{name} = tl.zeros([BS], tl.float32)", f"for k in range({line.every}):"]
            body.append(f"    {name} += tl.load({self._at[read]} + j * {line.every} + k, mask=there, other=0.0)")
            return [loop, *deeper([*body, f"tl.store({to} + j, {name}, mask=there)"])]
        out, begin = list[str](), "0"
        for x in line.reads:
            length = self._settling.length(x)
            value = x if length == "1" else f"tl.load({self._at[x]} + j, mask=there, other=0.0)"
            body = ["j = start + tl.arange(0, BS)", f"there = j < {length}"]
            body.append(f"tl.store({to} + {begin} + j, {value}, mask=there)")
            out += [f"for start in range(0, {length}, BS):", *deeper(body)]
            begin = f"{begin} + {length}"
        return out

    # ---- what comes of it

    def _results(self) -> list[str]:
        out = []
        for name, value in self._settling.results.items():
            if value not in self._wanted:
                continue
            known = f"{self._settling.kinds[name][0]}_{name}"
            if self._settling.length(value) == "1":
                self._places[known] = place = self._room.add(self._prefix + known, ONE)
                out.append(f"tl.store({place}, {value})")
            elif value.startswith("m_"):
                raise NotImplementedError("a sum over programs as it is")
            else:
                self._places[known] = self._at[value]
        return out

    def _state(self) -> list[str]:
        out: list[str] = []
        for slot, value in self._settling.state.items():
            if value not in self._wanted or slot in self._stored:
                continue
            own, place = self._settling.given[f"s_{slot}"], self._places[f"s_{slot}"]
            if own == "1":
                out.append(f"tl.store({place}, {value})")
                continue
            single = self._settling.length(value) == "1"
            new = value if single else f"tl.load({self._at[value]} + j, mask=there)"
            body = ["j = start + tl.arange(0, BS)", f"there = j < {own}", f"tl.store({place} + j, {new}, mask=there)"]
            out += [f"for start in range(0, {own}, BS):", *deeper(body)]
        return ["tl.debug_barrier()", *out] if out else []


class ColumnsOfSettle(WholeOfSettle):
    """The lines of a program that does BW columns, and loops over rows to add them up alone.

    Args:
        settling: what was traced of the rule's `settle`.
        room: where vectors lie between the kernels of an update.
        given: of every vector that is given, its address, or "=" and the text of a number.
        places: of every slot of the state, its address.
        first: the first of the programs that do columns.
    """

    def __init__(self, settling: Settling, room: Room, given: dict[str, str], places: dict[str, str], first: int):
        super().__init__(settling, room, given, places)
        self._first = first

    def _begin(self) -> list[str]:
        wide = [x for x, n in self._settling.given.items() if n == "width" and x in self._read()]
        out = [f"i = (tl.program_id(0) - {self._first}) * BW + tl.arange(0, BW)", "inside = i < width"]
        return out + [self._load(x, "i", "inside", "BP") for x in wide]

    def _of(self, group: LoopGroup) -> list[str]:
        if group.length == "width":
            return [f"{line.name} = {line.text}" for line in group.lines]
        return super()._of(group)

    def _results(self) -> list[str]:
        out, places = [], dict[str, str]()
        for name, value in self._settling.results.items():
            if value in self._wanted:
                if value not in places and value in self._settling.given and not value.startswith("m_"):
                    places[value] = self._given[value]
                elif value not in places:
                    places[value] = self._room.add(self._prefix + value, "width")
                    out.append(f"tl.store({places[value]} + i, {value}, mask=inside)")
                self._places[f"c_{name}"] = places[value]
        return out

    def _state(self) -> list[str]:
        states = {slot: x for slot, x in self._settling.state.items() if x in self._wanted}
        return [f"tl.store({self._places[f's_{slot}']} + i, {value}, mask=inside)" for slot, value in states.items()]
