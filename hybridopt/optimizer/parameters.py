"""What a step does to the parameters of an optimizer, all at once or one by one."""

from collections.abc import Iterable

from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ..core.errors import HybridOptError
from ..execution.dispatch import LASTING, WORTH_COMPILING, WORTH_PRINTING, worth
from ..model.placement.homes import device_of
from .gradients.finiteness import Checks, check_finite
from .gradients.known_norm import KnownNorm
from .gradients.repeated_checks import RepeatedChecks
from .groups.tags import Tags
from .idle_steps import IdleSteps
from .offloaded import check_resting
from .probing.measured import Measured
from .probing.shifts import Shifts
from .repeated_updates import RepeatedUpdates
from .updates import NOTHING, Updates
from .windows.loss_windows import LossWindows
from .windows.provisional import ProvisionalWindows
from .windows.unchanged import UnchangedWindows
from .windows.windows import Windows, carried_over

__all__ = ["Parameters", "Work"]

Work = tuple[str, Tensor]  # a parameter with its name
AHEAD = 50  # steps before kernels are taken, in which a compiler makes them while training goes on


class Parameters(Updates):
    """The parameters of an optimizer by name, their state, and how both move; made anew when its groups change.

    Args:
        optimizer: whose groups and state these are, as a weak proxy.
        tags: the treatments of its groups.
        compile: compiled updates: True, False or "auto", as `HybridOptimizer` takes it.
        measured: what probes have found for the next step.
        turns: what steps without an update were.
        pace: the windows that follow the loss, if any do.
    """

    def __init__(
        self,
        optimizer,
        tags: Tags,
        compile: bool | str,
        measured: Measured,
        turns: IdleSteps,
        pace: LossWindows | None = None,
    ):
        self._optimizer, self._measured, self._idle_steps = optimizer, measured, turns
        self.windows = Windows(tags, optimizer.param_groups, pace)
        self.shifts = Shifts(self.windows, tags.trainable)
        self._repeated_updates, self._repeated_checks = RepeatedUpdates(), RepeatedChecks()
        self._provisional, self._unchanged = ProvisionalWindows(), UnchangedWindows()
        self.told = KnownNorm()
        self._check_shared()
        check_resting(self.windows.all())
        self._compile = self._elements() if compile == "auto" else bool(compile)

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is used; not under a mode that sees every operation, where it refuses."""
        worth = self._compile is True or self._compile >= WORTH_COMPILING
        return worth and not is_in_torch_dispatch_mode(include_infra_modes=False)

    @property
    def _compiling(self) -> bool | int:
        """What `run` is told of compiling: a number of elements where that decides."""
        if is_in_torch_dispatch_mode(include_infra_modes=False):
            return False
        return self._compile if isinstance(self._compile, bool) else worth(self._compile, self.step)

    @property
    def _prepares(self) -> int:
        """What `prepare` is told of compiling, in the step in which steps to come are prepared; else 0."""
        small = not isinstance(self._compile, bool) and self._compile < WORTH_PRINTING
        return WORTH_PRINTING if small and self.step == LASTING - AHEAD and self._compiling else 0

    def params(self) -> list[Work]:
        """Return all parameters, group by group."""
        return [(one.name, one.p) for one in self.windows.all()]

    def skips(self, name: str) -> bool:
        """Return whether this parameter's gradient is to be thrown away, as the step's probe was.

        Raises:
            HybridOptError: if the parameter takes probes, and nothing was measured before the backward pass.
        """
        if self._measured.wanted and not self._measured.pending:
            raise HybridOptError(
                f"{name!r} is updated within the backward pass, and the probe of this step comes first: call "
                "optimizer.probe(loss_fn) before loss.backward()"
            )
        return self._measured.skipping

    def groups(self) -> list[dict]:
        """Return the optimizer's param groups, the very list."""
        groups: list[dict] = self._optimizer.param_groups
        return groups

    def check_loss_told(self) -> None:
        """Raise HybridOptError, before a weight is changed, if windows follow a loss that nobody has told."""
        pace = self.windows.pace
        if pace is None or not pace.blind(self.step):
            return
        if any(float(group["lr"]) for group in self.groups()) and self.waiting():
            pace.refuse(self.step)

    # ---- one step

    def waiting(self) -> list[Work]:
        """Return the parameters that have a gradient from the backward pass, and take it."""
        return [(one.name, one.p) for one in self.windows.all() if one.backward and one.p.grad is not None]

    def due(self) -> list[Work]:
        """Return the parameters that have a gradient, from the backward pass or from probes."""
        measured = self._measured.slopes is not None
        return [
            (one.name, one.p)
            for one in self.windows.all()
            if (one.backward and one.p.grad is not None) or (measured and one.probed)
        ]

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._optimizer.param_groups[0]["step"]

    @property
    def previous(self) -> float | None:
        """The norm of all gradients one step ago, where it was kept."""
        return self._optimizer.param_groups[0].get("grad_norm")

    def drop_idle(self, name: str, p: Tensor) -> bool:
        """Return whether this parameter is left alone in the window that its group is in; free its gradient then."""
        idle = self.windows.of(name, p).idle
        if idle:
            p.grad, self._idle_steps.arrived = None, True
        return idle

    def pass_turn(self) -> bool:
        """Return whether a step that updates nothing is one: with gradients, of blocks that are not in turn."""
        asked = [one for one in self.windows.all() if one.backward and not one.idle]
        gap = max([one.gap for one in asked], default=0)
        passed = self._idle_steps.passed(gap, [one.name for one in asked], self.step)
        if passed:
            self._end_windows()
        return passed

    def open_windows(self) -> None:
        """Drop the state that ends with a window, or whose block is not in turn, before any new state is made."""
        self._idle_steps.used()
        self._end_windows()

    def _end_windows(self):
        states, everything = self._optimizer.state, self.windows.all()
        if self._unchanged.hold(everything, states):
            return
        ended = False
        for one in everything:
            state = states.get(one.p)
            if not state:
                continue
            if one.job.part.empty and not one.job.beside:
                del states[one.p]
                ended = True
            elif state["window"] != one.window:
                states[one.p] = carried_over(state, one.job, one.window)
                ended = True
        if not ended:
            self._unchanged.learn(everything, states)

    def check(self, work: Iterable[Work]) -> tuple[str | None, Checks]:
        """Check gradients before anything is changed. Arguments and results as in `ReleasedParameters.check`."""
        work, compile = list(work), self._compiling
        if self.told.finite(work) or self._repeated_checks.finite(work, compile):
            return None, NOTHING
        names = {name for name, _ in work}
        resolved = [one for one in self.windows.all() if one.name in names]
        bad, checks = check_finite(resolved, compile)
        if bad is None and not any(one.numbers is not None for one in checks.values()):  # those are of this step
            self._repeated_checks.learn(work, compile)
        return bad, checks

    def take_back(self, names: Iterable[str]) -> None:
        """Forget what was noted of this step. Arguments as in `ReleasedParameters.take_back`."""
        bad, states = set(names), self._optimizer.state
        mine = {one.name: one.p for one in self.windows.all() if one.name in bad}
        for p in mine.values():
            if state := states.get(p):
                state["step"] -= 1
        self._provisional.settle(states, mine)

    def _check_shared(self):
        """Raise HybridOptError for a probed tensor with two names: it would be shifted by one, and updated by both."""
        first: dict[int, str] = {}
        for one in self.windows.all():
            known = first.setdefault(id(one.p), one.name)
            if known != one.name and one.probed:
                raise HybridOptError(
                    f"{known!r} and {one.name!r} are one parameter, which zeroth-order training can shift under "
                    "one name only; give it once, as model.named_parameters() does"
                )

    def _elements(self):
        """Return of how many elements compiling depends; True on a GPU, where it is always worth its time."""
        params = [p for _, p in self.params()]
        return any(device_of(p).type == "cuda" for p in params) or sum(p.numel() for p in params)
