"""What is done to every parameter in the window of steps that its group is in."""

from torch import Tensor

from ..core.contracts import Draw, Population
from ..policy.job import BASIS, Job, arithmetic, declare, seen_as
from ..policy.treatment import Treatment
from .groups import Tags, named

__all__ = ["Windows", "turned"]


def turned(state: dict, job: Job, window: int) -> dict:
    """What stays of a parameter's state in a new window: moments unless they are reset, and a basis that carries on.

    The latter keeps the old window's number until `sample` has seen it.
    """
    fits = {k: state[k] for k, s in declare(job).items() if k in state and state[k].shape == s.shape}
    moments = {k: x for k, x in fits.items() if not k.startswith(BASIS) and not job.treatment.reset}
    whole = all(BASIS + k in fits for k in job.part.slots(job.shape))
    basis = {k: x for k, x in fits.items() if k.startswith(BASIS) and job.part.carries and whole}
    numbers = {"step": state["step"] if moments else 0, "window": state["window"] if basis else window}
    return numbers | moments | basis


class Windows:
    """The jobs of all parameters, worked out once a window from the groups' clocks; nothing here need be saved."""

    def __init__(self, tags: Tags, groups: list[dict]):
        self._tags, self._groups = tags, groups
        self._jobs: dict[str, tuple[int, Job]] = {}
        self._populations: dict[tuple, Population] = {}

    def now(self, group: dict) -> int:
        """The window that the group is in."""
        gap = self._tags.treatment(group).split.update_gap
        return group["step"] // gap if gap else 0

    def job(self, group: dict, name: str, p: Tensor) -> Job:
        """What is done to a parameter now."""
        window = self.now(group)
        if self._jobs.get(name, (None, None))[0] != window:
            self._jobs[name] = window, self.job_at(group, name, p, window)
        return self._jobs[name][1]

    def job_at(self, group: dict, name: str, p: Tensor, window: int) -> Job:
        """What is done to a parameter in any window."""
        t = self._tags.treatment(group)
        shape = seen_as(self._tags.roles[name], tuple(p.shape), t)
        return Job(t, t.split.at(self.draw(group, name, window), shape), shape, arithmetic(p.dtype))

    def draw(self, group: dict, name: str, window: int) -> Draw:
        """The random choices of a parameter's split in a window."""
        split = self._tags.treatment(group).split
        return Draw(group["seed"], name, window, window * split.update_gap, self._population("split", split))

    def probe_draw(self, group: dict, name: str) -> Draw:
        """The random choices of a parameter's source in this step."""
        source, step = self._tags.treatment(group).source, group["step"]
        window = step // source.update_gap if source.update_gap else 0
        return Draw(group["seed"], name, window, step, self._population("source", source))

    def treatment(self, group: dict) -> Treatment:
        """How the parameters of a group are trained."""
        return self._tags.treatment(group)

    def _population(self, axis, part):
        """All parameters that share this split or source."""
        if (axis, part) not in self._populations:
            treated = ((g, self._tags.treatment(g)) for g in self._groups)
            same = [(g, t) for g, t in treated if getattr(t, axis) == part]
            live = ((n, p) for g, t in same for n, p in named(g) if p.requires_grad or not t.source.backward)
            self._populations[axis, part] = Population(tuple((n, p.numel()) for n, p in live))
        return self._populations[axis, part]
