"""An optimizer and the DDP module around its parameters: DDP averages what the step that begins takes, no more."""

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ...core.contracts import Named
from ...core.errors import HybridOptError
from ...model.containers import contained
from ...model.fsdp.sharded_tensors import is_sharded
from ..parameters import Parameters
from ..saved_for_backward import held_at_rest
from . import reducer
from .buckets import Buckets

__all__ = ["Replicated"]

FUSED = "to let release='fused' use gradients as soon as they are averaged"
TURNS = "to leave out the parameters that are not trained now"


class Replicated:
    """A hook before the forward pass, of the model until DDP is found, then of DDP itself.

    DDP makes buffers for all parameters that require a gradient when it is put around a model, and waits for each of
    them in every backward pass. Here its reducer is made anew whenever other parameters are in turn, so that blocks
    that stand still take neither memory nor traffic. The parameters' own requires_grad is never changed.

    A copy of the model gets a copy that does nothing.

    Args:
        optimizer: held weakly; when it is gone, DDP is as it was.
    """

    def __init__(self, optimizer: Any = None):
        self._optimizer = (lambda: None) if optimizer is None else weakref.ref(optimizer)
        self._ddp: Any = lambda: None
        self._on: Any = None  # handle of the hook
        self._told: frozenset[int] | None = None  # ids of what the reducer averages, once it was made anew
        self._buckets: Buckets | None = None
        self._sought = self._found = False

    def __reduce__(self) -> tuple:
        return Replicated, ()

    @property
    def ddp(self) -> Any:
        """Return the DDP module, None before it is found."""
        return self._ddp()

    # ---- finding it

    def expect(self, module: nn.Module | None, work: Iterable[Named]) -> None:
        """Look for DDP among all objects of the process, or else wait until the model is called within it.

        Args:
            module: the model of the parameters, if it is known.
            work: the parameters.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        found = _around([p for _, p in work])
        if found is not None:
            self._hook(found)
        elif module is not None and self._on is None:
            self._on = contained(module).register_forward_pre_hook(self)

    def seek(self, parameters: Parameters) -> None:
        """Look once for DDP in a step, where no call of a model has shown it; `parameters`: of the optimizer."""
        if self._on is None and not self._sought:
            self.expect(None, parameters.params())
            self._sought = True

    def find(self, work: Iterable[Named]) -> None:
        """Look for DDP before a loss is worked out, which all of its ranks share; `work`: the parameters."""
        work = list(work)
        if not (self._found or self.ddp is not None or any(is_sharded(p) for _, p in work)):
            self._found = True
            there = distributed.is_available() and distributed.is_initialized()
            if there and (ddp := _around([p for _, p in work])) is not None:
                self._hook(ddp)

    def _hook(self, ddp):
        if self._ddp() is not ddp:
            self.leave()
            self._ddp, self._on = weakref.ref(ddp), ddp.register_forward_pre_hook(self)

    @torch._disable_dynamo  # torch.compiler.disable, which imports dynamo when it is called first
    def __call__(self, module: nn.Module, _: Any) -> None:
        """Tell the optimizer that its model is about to compute with gradients, and in which DDP module, if any."""
        optimizer = self._optimizer()
        ddp = module if module is self._ddp() else DistributedDataParallel._get_active_ddp_module()
        if optimizer is None:
            self.leave()
        elif torch.is_grad_enabled():
            optimizer.entered(ddp)

    def check_known(self, work: Iterable[Named]) -> None:
        """Raise HybridOptError if gradients come from a DDP module that was not seen in the forward pass.

        work: the parameters.
        """
        work = list(work)
        there = distributed.is_available() and distributed.is_initialized()
        if not there or self.ddp is not None or any(is_sharded(p) for _, p in work):  # DDP takes no shards
            return
        ddp = _around([p for _, p in work])
        if ddp is not None:
            mine = {id(p) for p in ddp.parameters()}
            name = next(n for n, p in work if id(p) in mine)
            raise HybridOptError(
                f"parameter {name!r} lies in a DistributedDataParallel that the optimizer does not know, and "
                "release='fused' would update it before it is averaged: make the optimizer after it, or give the "
                "model (module=model; model.hybrid.optimizer does), or take release='accumulate'"
            )

    # ---- what it averages

    def follow(self, ddp: Any, parameters: Parameters, fused: bool) -> None:
        """Let DDP average what requires a gradient and is not idle in the step that begins.

        Args:
            ddp: the module, before or in its forward pass.
            parameters: those of the optimizer.
            fused: are updates made within the backward pass?
        """
        self._hook(ddp)
        parameters.windows.refresh()
        work = parameters.windows.all()
        idle = {id(one.p): one.p for one in work if one.idle}
        asked = frozenset(id(p) for p in ddp._module_parameters if p.requires_grad and id(p) not in idle)
        if asked == self._told or not asked:
            return
        if self._told is None and not (idle or fused) and len(asked) == reducer.averaged_by(ddp):
            return  # it is what DDP does by itself
        reducer.check(ddp, FUSED if fused else TURNS, alone=bool(idle) or self._told is not None)
        self._check_others(ddp, fused)
        self._drop_buckets()
        if fused:
            self._with_buckets(ddp, {one.p: one.name for one in work if not one.idle}, list(idle.values()))
        else:
            reducer.remake(ddp, list(idle.values()), views=ddp.gradient_as_bucket_view)
        self._told = asked

    def _check_others(self, ddp, fused):
        """Raise HybridOptError if another optimizer would lose the buckets that it updates by, or take this one's."""
        for other in list(ddp._forward_pre_hooks.values()):
            if not isinstance(other, Replicated) or other is self or other._told is None:
                continue
            if other._optimizer() is None:
                other.leave()
            elif fused or other.buckets:
                raise HybridOptError(
                    "two optimizers train one DistributedDataParallel, whose buckets release='fused' leaves to one of "
                    "them: give both sets of parameters to one optimizer, take release='accumulate' for both, or call "
                    "the other's unhook() first; nothing was changed"
                )

    def _with_buckets(self, ddp, names, idle):
        optimizer = self._optimizer

        def hand(p: Tensor, read: bool) -> None:
            if (alive := optimizer()) is not None:
                alive.gradient_averaged(names[p], p, read)

        reducer.drop(ddp)
        alone = {id(p): held_at_rest(p) for p in ddp._module_parameters if p.requires_grad}
        made = Buckets(hand, list(names), alone)

        def hybridopt_hook(state, bucket):
            return made.reduce(bucket)

        params = reducer.remake(ddp, idle, views=False, hook=hybridopt_hook)
        made.begin(ddp, params, spare=not reducer.whole_at_first(ddp))
        self._buckets = made

    # ---- a step

    def averages(self, p: Tensor) -> bool:
        """Return whether a gradient that the backward pass completes is used only after it was averaged."""
        return self._buckets is not None and self._buckets.has(p)

    @property
    def buckets(self) -> bool:
        """Return whether updates are made as buckets are averaged."""
        return self._buckets is not None

    def check(self, parameters: Parameters) -> None:
        """Raise HybridOptError, before the weights of ranks differ, for gradients that were never averaged.

        parameters: of the optimizer; those whose turn it is.
        """
        if self._buckets is None or not any(float(group["lr"]) for group in parameters.groups()):
            return
        for name, p in parameters.waiting():
            if self._buckets.has(p) and id(p) not in self._buckets.averaged:
                raise HybridOptError(
                    f"the gradient of {name!r} is that of this rank alone; nothing was changed by it. Call the model "
                    "through DistributedDataParallel, and run the last backward pass of a step outside of no_sync()"
                )

    def stepped(self) -> None:
        """Begin a new step."""
        if self._buckets is not None:
            self._buckets.averaged.clear()

    # ---- leaving

    def leave(self) -> None:
        """Remove the hook, and let DDP average everything that requires a gradient by itself."""
        if self._on is not None:
            self._on.remove()
        ddp, told = self._ddp(), self._told
        self._on, self._told, self._ddp = None, None, lambda: None
        self._drop_buckets()
        if ddp is not None and told is not None:
            reducer.remake(ddp, [], views=ddp.gradient_as_bucket_view)

    def _drop_buckets(self):
        if self._buckets is not None:
            self._buckets.end()
        self._buckets = None


def _around(params):
    """Return the DDP module that holds one of these parameters, among all objects of the process."""
    mine, kinds = {id(p) for p in params}, _with_subclasses(DistributedDataParallel)
    made: list[Any] = [x for x in gc.get_objects() if type(x) in kinds]
    return next((x for x in made if any(id(p) in mine for p in x.parameters())), None)


def _with_subclasses(kind):
    return {kind}.union(*(_with_subclasses(each) for each in kind.__subclasses__()))
