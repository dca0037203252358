"""A policy resolved on a model: every parameter tagged, every byte counted, nothing allocated."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from ..core.contracts import Draw, Part, Population, ProbeScheme, Slot, Split
from ..core.errors import HybridOptError, check_count
from ..core.registry import title
from ..model.roles import ROLES, Param
from ..parts.rules.sgd import SGD
from .job import Job, arithmetic, declare, nbytes, seen_as
from .routes import Ready, Route, assign
from .treatment import Treatment

__all__ = ["Entry", "Plan", "check_scheme", "check_treatment"]

DTYPES = torch.float32, torch.bfloat16, torch.float16  # that users convert weights to
LONGEST = 256  # windows looked at to find the largest


@dataclass(frozen=True)
class Entry:
    """One parameter with its treatment; None: frozen."""

    param: Param
    treatment: Treatment | None

    @property
    def tag(self) -> str:
        """Return "state-full", "state-free", "split" or "frozen"."""
        return "frozen" if self.treatment is None else self.treatment.tag

    @property
    def numel(self) -> int:
        """Return the number of elements, before packing."""
        return math.prod(self.param.shape)


@dataclass(frozen=True, repr=False)
class Plan:
    """Which parameter is trained how, and what its state costs in every window."""

    entries: tuple[Entry, ...]
    seed: int = 0

    @staticmethod
    def of(params: Iterable[Param], policy: Ready[Route], seed: int = 0) -> "Plan":
        """Resolve a policy.

        Args:
            params: what is known of every parameter of a model.
            policy: gives the routes.
            seed: of all random choices.

        Raises:
            HybridOptError: for what does not fit, naming the parameter.
        """
        check_count("", "seed", seed, 0)
        params = list(params)
        treatments = assign(policy, params)
        trained = {p.name: t.fit(p) for p in params if p.trainable and (t := treatments[p.name])}
        plan = Plan(tuple(Entry(p, trained.get(p.name)) for p in params), seed)
        for entry in plan.entries:
            if entry.treatment is not None:
                check_treatment(entry.param, entry.treatment)
                _check_slots(entry.param, plan.first(entry))
        check_scheme((e.param.name, e.treatment) for e in plan.entries if e.treatment is not None)
        return plan

    def __repr__(self) -> str:
        """Count the parameters of each tag, as models have thousands of them."""
        counts = Counter(e.tag for e in self.entries)
        return f"Plan({', '.join(f'{count} {tag}' for tag, count in counts.items())}; seed={self.seed})"

    @property
    def tags(self) -> dict[str, str]:
        """Return every parameter's tag, by name."""
        return {e.param.name: e.tag for e in self.entries}

    @property
    def trained(self) -> dict[str, Treatment]:
        """Return the treatments of all parameters that are trained, by name."""
        return {e.param.name: e.treatment for e in self.entries if e.treatment is not None}

    def job(self, entry: Entry, window: int) -> Job:
        """Return the Job of a trained parameter in a window."""
        t, p = entry.treatment, entry.param
        assert t is not None
        shape = seen_as(p.role, p.shape, t)
        begin = t.split.begin(window, t.split.ahead(self.seed, p.name))
        draw = Draw(self.seed, p.name, window, begin, self._populations[t.split])
        return Job(t, t.split.at(draw, shape), shape, arithmetic(p.dtype))

    def first(self, entry: Entry) -> Job:
        """Return the Job in the first window that has a state-full part; in the very first if none has."""
        name = entry.param.name
        if name not in self._firsts:
            found = next((job for job in self.jobs(entry) if not job.part.empty), None)
            self._firsts[name] = self.job(entry, 0) if found is None else found
        return self._firsts[name]

    @cached_property
    def state_bytes(self) -> dict[str, tuple[int, ...]]:
        """Return the bytes of optimizer state by name, one number a window; a single number holds for all windows."""
        return {e.param.name: (0,) if e.treatment is None else self._windows(e) for e in self.entries}

    def largest(self, names: Iterable[str]) -> int:
        """Return the bytes of optimizer state of these parameters together in their largest window."""
        series = [self.state_bytes[name] for name in names]
        windows = range(max(map(len, series), default=0))
        return max((sum(s[min(w, len(s) - 1)] for s in series) for w in windows), default=0)

    @cached_property
    def _firsts(self) -> dict[str, Job]:
        return {}

    @cached_property
    def _populations(self) -> dict[Split, Population]:
        found: dict[Split, list[tuple[str, int]]] = {}
        for e in self.entries:
            if e.treatment is not None:
                found.setdefault(e.treatment.split, []).append((e.param.name, e.numel))
        return {split: Population(tuple(members)) for split, members in found.items()}

    def jobs(self, entry: Entry) -> Iterator[Job]:
        """Yield the jobs of windows after which nothing larger comes, or nearly so."""
        assert entry.treatment is not None
        return (self.job(entry, window) for window in range(self._horizon(entry.treatment.split)))

    def _windows(self, entry: Entry) -> tuple[int, ...]:
        assert entry.treatment is not None
        costs: dict[Part, int] = {}
        basis = _slot_bytes(entry.treatment.source.slots(entry.param.shape))
        jobs = self.jobs(entry)
        return tuple(basis + (costs[j.part] if j.part in costs else costs.setdefault(j.part, nbytes(j))) for j in jobs)

    def _horizon(self, split: Split) -> int:
        if split.by_turns:
            return min(LONGEST, 2 * len(self._populations[split].members) + 1)
        return LONGEST if callable(split.density) else 1


def check_scheme(treatments: Iterable[tuple[str, Treatment]]) -> ProbeScheme | None:
    """Return how the losses of probes are used; None without probes. HybridOptError if parameters disagree."""
    probed = [(name, t) for name, t in treatments if t.probed]
    for name, t in probed:
        first, scheme = probed[0][0], probed[0][1].source.scheme
        if t.source.scheme != scheme:
            raise HybridOptError(
                f"{name!r} is probed by source={t.source!r}, and {first!r} by {probed[0][1].source!r}; one probe "
                "serves all: give their sources the same samples, and do not mix fzoo or conservative with others"
            )
    return probed[0][1].source.scheme if probed else None


def check_treatment(p: Param, treatment: Treatment) -> None:
    """Raise HybridOptError if this treatment cannot train this parameter."""
    if p.dtype.is_complex:
        raise HybridOptError(
            f"parameter {p.name!r} is complex ({p.dtype}); train torch.view_as_real of it, or freeze it"
        )
    if treatment.store_for(p.codes or p.dtype) is None:
        why = (
            f"its store keeps other dtypes ({title(type(treatment.store))})"
            if treatment.store
            else "no store keeps it"
        )
        kept = [str(dtype).removeprefix("torch.") for dtype in DTYPES if treatment.store_for(dtype)]
        cure = f"convert it to {' or '.join(kept)}, " if kept else ""
        raise HybridOptError(
            f"parameter {p.name!r} (role {p.role!r}, shape {p.shape}) has dtype {p.codes or p.dtype}: {why}; "
            f"{cure}{'leave the store out, ' if treatment.store else ''}or freeze it"
        )
    roles = (treatment.store and treatment.store.roles) or ROLES
    if p.role not in roles:
        raise HybridOptError(
            f"parameter {p.name!r} (role {p.role!r}, shape {p.shape}): its store is for roles {roles} only; leave the "
            "store out"
        )
    if p.role == "scales" and treatment.source.backward:
        raise HybridOptError(
            f"parameter {p.name!r} (shape {p.shape}) is a scale of quantized weights, which no backward pass reaches; "
            "take a zeroth-order source for it (policy='qzo'), or freeze it"
        )
    if all(rule.idle for rule in treatment.acting):
        raise HybridOptError(
            f"parameter {p.name!r} (role {p.role!r}, shape {p.shape}): it would stand still, as no rule but "
            "'no_update' is at work; freeze it instead (None in a Route, 'frozen' in a policy), or take another full"
        )
    _check_tried(p, treatment)


def _check_tried(p: Param, treatment: Treatment) -> None:
    """Raise HybridOptError if steps are tried before they are made, and are not known beforehand."""
    scheme = treatment.source.scheme
    if scheme is None or not scheme.conservative:
        return
    if not all(type(rule) is SGD for rule in treatment.acting):
        raise HybridOptError(
            f"parameter {p.name!r} (role {p.role!r}, shape {p.shape}): conservative=True tries plain steps along the "
            "direction, which other rules do not make; take full and free 'sgd', or conservative=False"
        )
    if treatment.tag == "split" and treatment.free_lr_scale != 1:
        raise HybridOptError(
            f"parameter {p.name!r} (role {p.role!r}, shape {p.shape}): conservative=True tries steps of one learning "
            f"rate, got free_lr_scale={treatment.free_lr_scale} beside a state-full part; take 1, or split='empty'"
        )


def _slot_bytes(slots: dict[str, Slot]) -> int:
    return sum(math.prod(slot.shape) * slot.dtype.itemsize for slot in slots.values())


def _check_slots(p: Param, job: Job) -> None:
    """Raise HybridOptError, naming the parameter, if a rule cannot take its shape."""
    try:
        _check_matrix(job)
        declare(job)
    except HybridOptError as error:
        raise HybridOptError(f"parameter {p.name!r} (role {p.role!r}, shape {p.shape}): {error}") from error


def _check_matrix(job: Job) -> None:
    """Raise HybridOptError if a rule that is not local would be given anything but matrices."""
    low, t = job.part.shape(job.shape), job.treatment
    if low is not None and len(low) < 2 and not t.full.local:
        full, split = title(type(t.full)), title(type(t.split))
        raise HybridOptError(
            f"full={full!r} needs a matrix, got shape {low}; take split='columns', 'rows' or 'block' in place of "
            f"{split!r}, which leaves single entries, or a rule that works element by element, such as full='adamw'"
        )
