"""Say which parameters an optimizer holds and nothing reaches: neither a gradient nor an evaluation of the loss."""

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable

from ..core.contracts import Release
from ..core.errors import HybridOptWarning
from .parameters import Parameters
from .probing.state import ProbeState
from .windows.resolved import Resolved

__all__ = ["UnreachedParameters", "places"]

SHOWN = 4
NORMAL = (
    "That is normal where this batch does not come to them (experts, dropped layers, the head of another task). "
    "Otherwise: "
)
CAUSES = (
    "reentrant checkpointing cuts gradients off where its inputs need none (take gradient_checkpointing_kwargs="
    "{'use_reentrant': False}, or call model.enable_input_require_grads()), and so do torch.no_grad() and detach(); "
)
FREEZE = "freeze what is not to be trained (requires_grad_(False))"
NOTHING = (
    "no parameter had a gradient in two calls of step(), which then does nothing: call loss.backward() before step(), "
    "and zero_grad() after it"
)


class UnreachedParameters:
    """Warns once, when the first step is complete, so in `step()`, before anything is updated."""

    def __init__(self):
        self._told, self._empty = False, 0

    def check(self, parameters: Parameters, release: Release, probing: ProbeState) -> None:
        """Warn of parameters that this step leaves alone, though their turn it is.

        Args:
            parameters: those of the optimizer.
            release: knows which of them got gradients.
            probing: knows which of them were used by evaluations.
        """
        if self._told:
            return
        everything = parameters.windows.all()
        trained = [one for one in everything if not (one.idle or one.empty or parameters.shifts.frozen(one))]
        reached = release.reached(parameters)
        if not reached and any(one.backward for one in trained):
            self._empty += 1
            if self._empty < 2:
                return  # schedulers want one step before their own, and loops give it to them
        elif _only_zeros(parameters):
            return
        self._told = True
        unused = probing.unreached()
        left = [one for one in trained if one.name not in reached and (not one.probed or one.name in unused)]
        if left:
            dropped = any(one.idle for one in everything)  # their gradients may have come
            text = NOTHING if not reached and not dropped and len(left) == len(trained) else _text(left, trained)
            warnings.warn(text, HybridOptWarning, stacklevel=5)


def places(names: Collection[str], others: Iterable[str]) -> list[str]:
    """Return, with counts, the topmost modules that hold only `names`, none of the `others`; numbers become stars."""
    mixed = {prefix for name in others for prefix in _prefixes(name)}
    tops = Counter(next((p for p in _prefixes(name) if p not in mixed), name) for name in names)
    stars: Counter[str] = Counter()
    alike: dict[str, list[str]] = {}
    for top, count in tops.items():
        star = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", top)
        stars[star] += count
        alike.setdefault(star, []).append(top)
    shown = [f"{alike[s][0] if len(alike[s]) == 1 else s} ({count})" for s, count in stars.most_common(SHOWN)]
    return shown + ([f"{len(stars) - SHOWN} more"] if len(stars) > SHOWN else [])


def _prefixes(name: str) -> list[str]:
    """Return the paths of the modules that a parameter lies in, topmost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _text(left: list[Resolved], trained: list[Resolved]) -> str:
    names = dict.fromkeys([one.name for one in left])
    where = ", ".join(places(names, (one.name for one in trained if one.name not in names)))
    by_gradients = any(one.backward for one in left)
    lacking = "got no gradient" if by_gradients else "were used by no evaluation of the loss"
    causes = CAUSES if by_gradients else ""
    return f"{len(left)} of {len(trained)} parameters {lacking} in the first step: {where}. {NORMAL}{causes}{FREEZE}"


def _only_zeros(parameters: Parameters) -> bool:
    """Tell whether this is no step, but the way in which torch.distributed.checkpoint asks for state to be made."""
    rates = [float(group["lr"]) for group in parameters.groups()]
    grads = [p.grad for _, p in parameters.waiting() if p.grad is not None]
    return not any(rates) and bool(grads) and not any(bool(grad.count_nonzero()) for grad in grads)
