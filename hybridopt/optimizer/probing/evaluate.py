"""Losses of the same closures at several shifts of the weights."""

import warnings
from collections.abc import Callable, Container, Hashable, Sequence
from functools import partial
from numbers import Real

import torch
from torch import Tensor, distributed

from ...core.collective_errors import meeting
from ...core.errors import HybridOptError, HybridOptWarning
from ...model.roles import codes_dtype
from .intact import RULE, Intact, Left
from .paired import lockstep
from .pairing import TRIED, Pairing
from .perturb import Perturbation, Shift

__all__ = ["Closures", "Evaluator", "values"]

WHAT = "work out a loss, for which they gather weights or buffers"
Closures = Callable[[], object] | Sequence[Callable[[], object]]


class Evaluator:
    """Evaluates losses at shifted weights, every time under the same circumstances.

    Each evaluation starts from the same global random states (so with the same dropout masks) and from the same
    buffers. The weights are never written, and the mode of the model (train or eval) is its owner's.

    left: what the first evaluation of the last `losses` has made of the buffers of modules in training mode, such as
    running statistics. unreached: names of the parameters that no evaluation has used so far; empty once `settle` was
    called.

    Args:
        perturbation: lets the model compute at shifted weights.
        looks: look for parameters that no evaluation uses; where there seem to be some, it takes one evaluation more.
    """

    def __init__(self, perturbation: Perturbation, looks: bool = False):
        self._perturbation = perturbation
        self._known: set[Hashable] = set()
        self._unused: set[Hashable] = set()
        self.left: Left = []
        self.unreached: frozenset[str] = frozenset()
        self._begun, self._looks = False, looks
        self._pairing = Pairing(perturbation)

    @property
    def unused(self) -> bool:
        """Whether losses were computed without any of the parameters, as far as was seen (not into compiled code)."""
        return self._perturbation.unused

    @property
    def sharded(self) -> bool:
        """Whether any parameter is sharded over ranks, so that evaluations gather weights."""
        return self._perturbation.sharded

    def reshard(self) -> None:
        """Free whole layers that FSDP2 keeps after a forward pass."""
        self._perturbation.reshard()

    def settle(self) -> None:
        """Look no more for parameters that nothing uses."""
        self._looks, self.unreached = False, frozenset()

    def watch(self) -> None:
        """Watch every closure once more, as parameters may have been replaced since it was last watched."""
        self._known.clear()

    def losses(self, closures: Closures, shifts: Sequence[Shift]) -> list[float]:
        """Compute the loss at every shift, without gradients; of several closures (micro-batches) the mean.

        A closure returns a number, or a tensor of one element. It runs once for each shift; the first time that its
        code runs it is watched, and runs again where parameters were found to be used outside their modules.
        Afterwards random states are as after one evaluation, and buffers as before. Losses that are not finite are
        returned.

        What a closure raises passes through. Raises HybridOptError for a closure that returns something else, needs
        gradients, or changes the model. After an error random states are as before.
        """
        listed = _listed(closures)
        root = self._perturbation.root
        path = (frozenset([_code(closure) for closure in listed]), root is not None and root.training)
        watch = path not in self._known or bool(self.unreached)
        with torch.inference_mode(False), torch.no_grad():
            self._perturbation.unused = path in self._unused  # other closures may not have called the model
            self._perturbation.reshard()
            intact = Intact(self._perturbation.params, root)
            try:
                found = self._each(listed, shifts, intact, watch, path)
                if watch and self._looks:
                    self._reach(listed, shifts[0], intact, found[0])
            except BaseException:
                intact.rewind()
                raise
        self._known.add(path)
        (self._unused.add if self.unused else self._unused.discard)(path)
        return found

    def _each(self, closures, shifts, intact, watch, path):
        """Compute the loss at every shift; in one pass over layers that are fetched, where that is known to be right.

        Then running statistics and the like do not move, and nothing is left of the first evaluation.
        """
        together = partial(self._together, closures, shifts, intact)
        pairs = self._pairing.allows(path, intact, len(shifts))
        if pairs and self._pairing.proved(path) and not watch:
            found = together()
            if found is not None:
                return found
            watch = True
        found = [self._loss(closures, shift, intact, watch, not n) for n, shift in enumerate(shifts[:TRIED])]
        if pairs and (tried := self._pairing.prove(path, found, together)) is not None:
            return tried
        return found + [self._loss(closures, shift, intact, watch) for shift in shifts[TRIED:]]

    def _together(self, closures, shifts, intact):
        """Compute the loss at every shift in lockstep; None where evaluations must be watched."""
        root = self._perturbation.root
        assert root is not None  # as there are layers
        intact.rewind()
        with self._perturbation.together(shifts) as lanes:
            work = [partial(_mean, closures)] * len(shifts)
            found = lockstep(work, lanes, self._perturbation.units, list(root.modules()))
        intact.check()
        return None if self._perturbation.strays else found

    def _reach(self, closures, shift, intact, loss):
        """Note what was not used; nothing, if moving that far changes the loss, as compiled code hides what it uses.

        Nor with several processes: each may have seen something else, and evaluations may wait for each other.
        """
        unseen = self._perturbation.untouched & (self.unreached if self._begun else self._perturbation.untouched)
        self._begun = True
        alone = not (distributed.is_available() and distributed.is_initialized())
        asks = unseen and alone and unseen != self._perturbation.params.keys()
        sure = asks and self._loss(closures, _far(shift, unseen), intact, False) == loss
        self.unreached = unseen if sure else frozenset()

    def _loss(self, closures, shift, intact, watch, first=False):
        while True:
            intact.rewind()
            try:
                with self._perturbation.shifted(shift, watch), meeting(WHAT, others=True):
                    loss = _mean(closures)
                self.left = intact.left() if first else self.left
            finally:
                intact.put_back()
            intact.check()
            if not (self._perturbation.missed or self._perturbation.strays):
                return loss
            watch = True


def _mean(closures):
    losses = [_number(_called(closure)) for closure in closures]
    return sum(losses) / len(losses)


def values(p: Tensor) -> Tensor:
    """Return the values of a parameter, be they kept as codes."""
    return p.detach().dequantize() if codes_dtype(p) else p.detach()


def _far(shift: Shift, names: Container[str]) -> Shift:
    return lambda name, p: values(p) + 1 if name in names else shift(name, p)


def _listed(closures):
    found = [closures] if callable(closures) else closures
    if not isinstance(found, Sequence) or not found or not all(map(callable, found)):
        raise HybridOptError(
            f"loss_fn must be a function without arguments that returns the loss, or a list of them (micro-batches); "
            f"got {type(closures).__name__} {closures!r:.100}"
        )
    return list(found)


def _code(closure):
    """Return the code that runs: the same for every new lambda from one line of a loop."""
    closure = getattr(closure, "func", closure)  # of functools.partial
    return getattr(getattr(closure, "__func__", closure), "__code__", type(closure))


def _called(closure):
    try:
        return closure()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise HybridOptError(
            f"the closure asked for gradients, and there are none in zeroth order; {RULE}. (Lightning's automatic "
            "optimization makes such a closure: set self.automatic_optimization = False, and call "
            "self.optimizers().step(closure) in training_step)"
        ) from error


def _number(loss) -> float:
    """Turn a loss into a float64 number."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex() and loss.dtype != torch.bool:
        if loss.dtype in (torch.bfloat16, torch.float16):
            warnings.warn(
                f"the loss is {loss.dtype}, which cannot tell two losses apart that differ by less than "
                f"{torch.finfo(loss.dtype).eps / 2:.0e} of themselves: compute it in float32 (logits.float())",
                HybridOptWarning,
                stacklevel=8,
            )
        return loss.detach().double().item()
    if isinstance(loss, Real) and not isinstance(loss, bool):
        return float(loss)
    what = f"a tensor of shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else _described(loss)
    raise HybridOptError(f"the closure must return the loss, one real number or a tensor of one; it returned {what}")


def _described(loss):
    if loss is None:
        return "None; end it with `return loss`"
    hint = "; return its .loss" if hasattr(loss, "loss") else ""
    return f"{type(loss).__name__}{hint}"
