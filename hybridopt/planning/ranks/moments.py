"""The moments of a step of which every rank has a shard: layers are gathered and freed, gradients added up and cut.

What lives when is as torch's FSDP2 has it without settings of one's own: in the forward pass the buffer that a layer
arrived in stays until the next has arrived, in the backward pass the next layer is fetched ahead, the root stays whole
from its forward to the end of the backward pass, and what a layer's gradients were added up from stays until those of
the next are. On CPUs gloo keeps a copy of what it gathers until all of it has arrived.
"""

from collections.abc import Iterator

from ..trace.moments import Moment, Stage
from ..trace.peak import Peak, Step
from ..trace.simulate import Trace
from .units import ROOT, Units, layer_of

__all__ = ["sharded_moments"]

HEAD, END = ("head",), ("end",)


def sharded_moments(
    trace: Trace, step: Step, units: Units, checkpointing: bool, copies: bool = False
) -> Iterator[Peak]:
    """Yield the moments of a step on a rank.

    Args:
        trace: of the whole model's forward and backward pass.
        step: says when gradients are freed, and what updates of this rank take.
        units: what is gathered together.
        checkpointing: whether layers are computed again, and gathered once more by that.
        copies: whether what gathers layers has a copy of them meanwhile.
    """
    walk = _Walk(trace, step, units, checkpointing, copies)
    for m in trace.moments:
        yield from walk.moment(m)
    yield from walk.ended()


class _Walk:
    def __init__(self, trace: Trace, step: Step, units: Units, checkpointing: bool, copies: bool):
        self.step, self.units, self.again, self.copies = step, units, checkpointing, copies
        self.path, self.depth = trace.path, trace.depth
        kept = sum(self._stays(i) for i in units.each) if step.passes > 1 else 0
        self.kept, self.whole = kept, dict.fromkeys(units.each, 0)  # bytes of gradients: of rows, and not yet cut
        self.stage: Stage = ("start",)
        self.left = (0.0, 0.0)
        self.forward_over = False
        self.added = 0  # bytes that the gradients of the layer before were added up from

    def moment(self, m: Moment) -> Iterator[Peak]:
        """Yield the moments of one interval, and those of what ends with the stage before it."""
        if m.stage != self.stage:
            yield from self._entered(m.stage)
        yield Peak(m.stage, m.forward, m.backward - m.gradient, self._gradients + m.gradient, 0, self._gathered)
        if m.stage == HEAD:
            self.forward_over = True
        self.left = m.left
        if m.done is not None:
            self.left = (m.left[0], max(0, m.left[1] - self.step.gradients[m.done]))
            self.whole[layer_of(m.done, self.path)] += self.step.gradients[m.done]

    def ended(self) -> Iterator[Peak]:
        """Yield the moments after the last interval: the gradients that are left are added up, and all is updated."""
        for number in (i for i in (ROOT, *sorted(self.whole)) if self.whole.get(i)):
            yield from self._added_up(number, 0)
        if self.step.probed or (self.kept and not self.step.frees_gradients):
            yield Peak(("update",), self.left[0], self.left[1] + self.step.together(), self.kept)

    @property
    def _gradients(self) -> int:
        return self.kept + sum(self.whole.values())

    @property
    def _gathered(self) -> int:
        """Return the bytes of gathered weights in the stage that goes on, and of gradients on their way."""
        kind, units, last = self.stage[0], self.units, self.depth - 1
        root = units[ROOT].whole
        if kind == "start":
            return 2 * root
        if kind == "forward":
            return root + 2 * units[int(self.stage[-1])].whole
        if kind == "head":
            return root + units[last].whole
        if kind == "backward":
            i = int(self.stage[-1])
            twice = 2 if self.again else 1
            return root + twice * units[i].whole + units[i - 1].whole * (i > 0) + self.added
        return root + self.added

    def _entered(self, stage: Stage) -> Iterator[Peak]:
        if self.stage[0] == "backward":
            number = int(self.stage[-1])
            ahead = self.units[ROOT].whole + self.units[number - 1].whole * (number > 0)
            yield from self._added_up(number, ahead)
        elif stage == ("forward", 0):
            yield Peak(stage, *self.left, self._gradients, 0, self._gathered + self.units[0].whole)
        self.stage = stage
        if self.copies and stage[0] == "backward" and int(stage[-1]) > 0:
            copy = self.units[int(stage[-1]) - 1].whole
            yield Peak(stage, *self.left, self._gradients, 0, self._gathered + copy)

    def _added_up(self, number: int, gathered: int) -> Iterator[Peak]:
        """Yield the moments at which the gradients of a unit are added up, and its own are updated.

        Args:
            number: of the unit.
            gathered: bytes of weights that are whole meanwhile.
        """
        if not self.whole.get(number):
            return
        stage, reduced, inputs = self.stage, self.units[number].reduced, self.units.inputs(number)
        yield Peak(stage, *self.left, self._gradients, 0, gathered + inputs)
        self.whole[number] = 0
        made = self.left[1] + (self._alone(number) if self.step.frees_gradients else 0)
        yield Peak(stage, self.left[0], made, self._gradients + reduced, 0, gathered + inputs)
        self.added = inputs
        if self.step.passes == 1:
            self.kept += 0 if self.step.frees_gradients else self._stays(number)

    def _stays(self, number: int) -> int:
        """Return the bytes of a unit's gradients that stay until the update: all where any of them is used then."""
        names = [name for name in self.step.gradients if layer_of(name, self.path) == number]
        return self.units[number].reduced if any(name not in self.step.idle for name in names) else 0

    def _alone(self, number: int) -> int:
        names = (name for name in self.step.gradients if layer_of(name, self.path) == number)
        return max((self.step.alone(name) for name in names if name not in self.step.idle), default=0)
