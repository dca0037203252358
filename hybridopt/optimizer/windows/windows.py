"""All parameters of an optimizer, resolved once for the window of steps that each is in."""

import sys

from torch import Tensor

from ...core.contracts import Draw, Population
from ...execution.sharded.work_division import Share
from ...model.fsdp.sharded_tensors import is_sharded
from ...policy.job import BASIS, WEIGHT, Job, arithmetic, declare, seen_as
from ..groups.tags import Tags, named
from .loss_windows import LossWindows
from .rank_shares import shares
from .resolved import Resolved, resolve

__all__ = ["Windows", "carried_over"]


def carried_over(state: dict, job: Job, window: int) -> dict:
    """Return what stays of a parameter's state when a new window begins.

    What is part of the weight stays. Moments do unless the treatment resets them, or their shapes change. The split's
    basis stays where the part refines it; then the old window's number stays beside it, until `sample` has drawn the
    new one.

    Args:
        state: the optimizer's state of the parameter: tensors by name, "step" and "window".
        job: the parameter's update in the new window.
        window: the number of the new window.
    """
    fits = {k: state[k] for k, s in declare(job).items() if k in state and state[k].shape == s.shape}
    weight = {k: x for k, x in fits.items() if k.startswith(WEIGHT)}
    moments = {k: x for k, x in fits.items() if not k.startswith((BASIS, WEIGHT)) and not job.treatment.reset}
    whole = all(BASIS + k in fits for k in job.part.slots(job.shape))
    basis = {k: x for k, x in fits.items() if k.startswith(BASIS) and job.part.carries and whole}
    numbers = {"step": state["step"] if moments else 0, "window": state["window"] if basis else window}
    return numbers | moments | basis | weight


class Windows:
    """The parameters of an optimizer by name, resolved anew where a window has ended; nothing here need be saved.

    Args:
        tags: the treatments of the groups.
        groups: of the optimizer.
        pace: the windows of treatments whose windows follow the loss; None where there are none.
    """

    def __init__(self, tags: Tags, groups: list[dict], pace: LossWindows | None = None):
        self._tags, self.sections, self.pace = tags, tags.sections(groups), pace
        self._group = {name: group for group in self.sections for name in group["param_names"]}
        self._known: dict[str, Resolved] = {}
        self._all: list[Resolved] = []
        self._marks: list[tuple] = []
        self._populations: dict[tuple, Population] = {}
        self._frozen: frozenset[str] = frozenset()
        self._shared: dict[str, Share] = {}
        self.edition = 0  # grows where what was resolved no longer holds, though windows have not ended
        self.refresh()

    def refresh(self) -> None:
        """Let turns go by the parameters that can be trained now, from the step on that begins.

        Whose turn it is follows from the seed, the window, and the names of these alone, in every copy of a run.
        """
        taking = [group for group in self.sections if self._tags.treatment(group).source.backward]
        frozen = frozenset([n for group in taking for n, p in named(group) if not p.requires_grad])
        if frozen != self._frozen:
            self._frozen = frozen
            self._populations.clear()
            self._known.clear()
            self._marks = []
            self.edition += 1

    def all(self) -> list[Resolved]:
        """Return all parameters, group by group, as they are trained now."""
        marks = [self._mark(group) for group in self.sections]
        if marks != self._marks:
            self._all = [self._resolved(group, name, p) for group in self.sections for name, p in named(group)]
            self._marks = marks
        return self._all

    def of(self, name: str, p: Tensor) -> Resolved:
        """Return one parameter as it is trained now; `p` is the tensor that has this name."""
        known = self._known.get(name)
        if known is not None and known.p is p and known.holds:
            return known
        return self._resolved(self._group[name], name, p)

    def job_at(self, group: dict, name: str, p: Tensor, window: int) -> Job:
        """Return the update of a parameter in any window.

        Args:
            group: its param group, which says the treatment and the seed.
            name: its name.
            p: the parameter, of which shape and dtype count.
            window: the number of the window, from 0.
        """
        return self._job(group, name, p, self.draw(group, name, window))

    def saved_job(self, group: dict, name: str, p: Tensor, window: int) -> Job:
        """Return the update for which a state was made in some window, whoever took turns with the parameter then.

        Args:
            group: its param group, which says the treatment and the seed.
            name: its name.
            p: the parameter, of which shape and dtype count.
            window: the number of the window, from 0.
        """
        split = self._tags.treatment(group).split
        if not split.by_turns:
            return self.job_at(group, name, p, window)
        alone = Population(((name, p.numel()),))
        return self._job(group, name, p, Draw(group["seed"], name, 0, self._span(group, window)[0], alone))

    def number(self, group: dict, name: str) -> int:
        """Return the number of the window that a parameter is in at the step of a group, live or saved."""
        t = self._tags.treatment(group)
        if t.gap is not None and self.pace is not None:
            return self.pace.window(group["step"])
        return t.split.window(group["step"], t.split.ahead(group["seed"], name))

    def draw(self, group: dict, name: str, window: int) -> Draw:
        """Return the random choices of a parameter's split in a window.

        Args:
            group: its param group.
            name: its name.
            window: the number of the window, from 0.
        """
        split, seed = self._tags.treatment(group).split, group["seed"]
        begin = self._span(group, window, split.ahead(seed, name))[0]
        return Draw(seed, name, window, begin, self._population("split", split))

    def probe_draw(self, group: dict, name: str) -> Draw:
        """Return the random choices of a parameter's source in the step that its group is in."""
        source, step = self._tags.treatment(group).source, group["step"]
        window = step // source.update_gap if source.update_gap else 0
        return Draw(group["seed"], name, window, step, self._population("source", source))

    def share(self, group: dict, name: str, p: Tensor) -> Share | None:
        """Return what this rank does for a sharded parameter, in all windows alike; None for a plain tensor.

        Args:
            group: its param group.
            name: its name.
            p: the parameter.

        Raises:
            HybridOptError: it is sharded in a way in which it cannot be trained.
        """
        if not is_sharded(p):
            return None
        if not self._shared:
            sharded = [(g, n, x) for g in self.sections for n, x in named(g) if is_sharded(x)]
            self._shared = shares(sharded, self._tags, lambda g, n, x: self.job_at(g, n, x, self.number(g, n)))
        return self._shared[name]

    def _job(self, group, name, p, draw):
        t = self._tags.treatment(group)
        shape = seen_as(self._tags.roles[name], tuple(p.shape), t)
        return Job(t, t.split.at(draw, shape), shape, arithmetic(p.dtype))

    def _mark(self, group):
        """Return what a group's parameters are resolved for: window, or step if these spread, identities, dtypes."""
        params, split = group["params"], self._tags.treatment(group).split
        now = group["step"] if split.spread else self.number(group, "")
        return now, list(map(id, params)), [p.dtype for p in params]

    def _resolved(self, group, name, p):
        known = self._known.get(name)
        if known is None or known.p is not p or not known.holds:
            window = self.number(group, name)
            span = self._span(group, window, self._tags.treatment(group).split.ahead(group["seed"], name))
            job = self.job_at(group, name, p, window)
            known = self._known[name] = resolve(name, p, group, (window, *span), job, self.share(group, name, p))
        return known

    def _span(self, group, window, ahead=0):
        """Return the first step of a window and the step after its last, for windows that begin `ahead` of time."""
        t = self._tags.treatment(group)
        if t.gap is not None and self.pace is not None:
            return self.pace.span(window)
        split = t.split
        return split.begin(window, ahead), split.begin(window + 1, ahead) if split.update_gap else sys.maxsize

    def _population(self, axis, part):
        """Return all parameters that share this split or source."""
        if (axis, part) not in self._populations:
            treated = ((g, self._tags.treatment(g)) for g in self.sections)
            same = [(g, t) for g, t in treated if (t.split if axis == "split" else t.source) == part]
            same = self._tags.ordered(same)
            live = ((n, p) for g, _ in same for n, p in named(g) if n not in self._frozen)
            self._populations[axis, part] = Population(tuple((n, p.numel()) for n, p in live))
        return self._populations[axis, part]
