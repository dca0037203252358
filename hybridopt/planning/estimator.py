"""Estimate several ways to train one model, and work out once what they share."""

from collections.abc import Callable
from contextlib import ExitStack

from torch import nn

from ..core.budget import Budget
from ..core.errors import HybridOptError
from ..core.host import Host
from ..model.activations.kept_inputs import KeptInputs
from ..model.activations.linear import put_, trained_layers
from ..model.activations.refusals import check_layers
from ..model.adapters import library_of
from ..model.losses.chunked import chunked_loss
from ..model.losses.linear_cross_entropy import only_tiles_that_differ
from ..model.roles import Param, clean, params
from ..policy.batch_rates import rounded_lr
from ..policy.plan import Plan
from ..policy.routes import check_routes
from ..policy.start_rates import start_rate, use_of, width_of
from .bytes.temporaries import Temporaries
from .costs import Costs, Known
from .estimate import OVERHEAD, Estimate, estimate_of
from .placement.auto_placement import settle
from .placement.offloaded_tensors import Carried
from .request import Request
from .subject.inputs import inputs
from .subject.model import Subject, layers, skeleton
from .trace.extrapolate import extrapolate, shortened
from .trace.layer_pattern import Rhythm, rhythm
from .trace.simulate import Limit, Trace, simulate
from .trace.tokens import traced

__all__ = ["Estimator", "freeze_"]


class Estimator:
    """Estimate ways to train one model; what several requests share is worked out once.

    Args:
        source: the model's dimensions.
        change: is called with every model that is made, for changes that no request can express.
    """

    def __init__(self, source: Subject, change: Callable[[nn.Module], object] = lambda model: None):
        self.source, self._change = source, change
        self._models: dict[tuple, Known] = {}
        self._costs: dict[tuple, Costs] = {}
        self._traces: dict[tuple, Trace] = {}
        self._rhythms: dict[tuple, Rhythm | None] = {}
        self._tells: dict[tuple, bool] = {}  # does a model of more layers tell what one of fewer takes?
        self._steps: bool | None = None  # does the model step through tokens one by one? None: not known

    def estimate(self, request: Request) -> Estimate:
        """Return what a way to train takes.

        Raises:
            HybridOptError: the model cannot be trained in this way.
        """
        costs = self._cost(request)
        left = self._known(request).unquantized
        return estimate_of(self.source.name, request, costs, self._traces_of(request, costs), left)

    def settled(self, request: Request, room: Budget | None, host: Host | None) -> Request:
        """Return a request whose placement is no "auto" any more, but what `load` would choose.

        Args:
            request: the way to train.
            room: of the device.
            host: beside it.
        """
        if request.placement is None or request.placement.base != "auto":
            return request
        known = self._known(request)
        return request.but(placement=settle(known.model, request, resolved(known.params, request), room, host))

    def least(self, request: Request) -> int:
        """Return a lower bound on what a way takes, in bytes, without a simulated pass; raise as `estimate` does."""
        return self._cost(request).least(request) + OVERHEAD[request.device]

    def carried(self, request: Request) -> Carried | None:
        """Return what rests elsewhere and what a step moves, without a simulated pass; None where nothing does."""
        return self._cost(request).carried(request)

    def plan(self, request: Request) -> Plan:
        """Return the policy of a way to train, resolved on the model's parameters."""
        return resolved(self._known(request).params, request)

    def start_rate(self, request: Request) -> tuple[float, str]:
        """Return a learning rate to start a way to train from, and where it comes from, in words."""
        found = self._known(request).params
        return start_rate(request.ready, use_of(found), width_of(found))

    def useless_rank(self, request: Request) -> str | None:
        """Return a sentence on adapters of a higher rank than their layers can use; None without such."""
        model = self._known(request).model
        library = library_of(model)
        return None if library is None else library.useless_rank(model)

    def rate(self, request: Request, known: tuple[float, int] | None = None) -> tuple[float, str]:
        """Return a learning rate for a way to train and its batch, and where it comes from, in words.

        Args:
            request: the way to train.
            known: a rate, and the examples of a step for which it is right; None: what the policy is started from.

        Raises:
            HybridOptError: nothing is known of the policy's rates and batches.
        """
        if known is None:
            return self.start_rate(request)
        lr, before = known
        batch = request.batch * request.micro_batches * request.gpus
        found = rounded_lr(lr, before, batch, request.ready)
        return found, f"for {batch} examples a step, as {lr:g} is for {before}, where the gradient is mostly noise"

    def _cost(self, request: Request) -> Costs:
        named = request.policy, repr(sorted(request.options.items())), request.seed
        key = *named, request.weights, request.placement, request.gpus, request.parallel
        if key not in self._costs:
            known = self._known(request)
            self._costs[key] = known.costs(self.plan(request), request)
        return self._costs[key]

    def _known(self, request: Request) -> Known:
        key = request.weights, request.ready.opens_scales
        if key not in self._models:
            self._models[key] = Known(self._skeleton(request.but(checkpointing=False)))
        return self._models[key]

    def _skeleton(self, request: Request, depth: int | None = None) -> nn.Module:
        model = skeleton(self.source, request, depth)
        self._change(model)
        return model

    def _traces_of(self, request: Request, costs: Costs) -> list[Trace]:
        """Return the traces of forward and backward pass and of probes, whichever the step has."""
        return [self._trace(request, backward, used) for backward, used in costs.passes.items()]

    def _trace(self, request: Request, backward: bool, used: dict[str, int]) -> Trace:
        key = request.structure, backward, tuple(used.items())
        if key not in self._traces:
            self._traces[key] = self._simulated(request, backward, used)
        return self._traces[key]

    def _simulated(self, request: Request, backward: bool, used: dict[str, int]) -> Trace:
        """Return the trace of one pass, from two models of few layers where these stand for the whole."""
        depth = self.source.depth
        found = self._rhythm(request, used)
        if found is not None:
            whole = extrapolate(*self._few(request, backward, found), depth, found)
            if whole is not None:
                return whole
        return self._short(request, depth, backward)

    def _rhythm(self, request: Request, used: dict[str, int]) -> Rhythm | None:
        key = request.weights, request.ready.opens_scales, tuple(used.items())
        if key not in self._rhythms:
            known = self._known(request).model
            self._rhythms[key] = rhythm(known, self.source.config(), used, self.source.depth)
        return self._rhythms[key]

    def _few(self, request: Request, backward: bool, order: Rhythm) -> tuple[Trace, Trace]:
        """Return the traces of the two models of few layers that stand for the whole.

        That of fewer layers is simulated once for each way to pass through the layers. Where it is what that of more
        layers tells, the others are told, too.
        """
        depth = self.source.depth
        one, other = order.short(depth)
        long = self._short(request, other, backward)
        again = request.checkpointing, request.checkpointing and request.reentrant
        key = order, backward, *again, request.activations
        if self._tells.get(key):
            return shortened(long, depth, order), long
        short = self._short(request, one, backward)
        self._tells.setdefault(key, shortened(long, depth, order).moments == short.moments)
        return short, long

    def _short(self, request: Request, depth: int, backward: bool) -> Trace:
        """Return the trace of one pass of a model of `depth` layers, simulated or extrapolated from few tokens."""

        def run(tokens: int, limit: Limit) -> Trace:
            if request.chunk is not None and tokens != request.seq_len:
                raise HybridOptError(
                    f"chunk={request.chunk} is not planned for {self.source.name}, which steps through tokens one by "
                    "one; leave chunk out"
                )
            return self._pass(request.but(seq_len=tokens), depth, backward, limit)

        trace, self._steps = traced(run, request.seq_len, depth, self._steps)
        return trace

    def _pass(self, request: Request, depth: int, backward: bool, limit: Limit) -> Trace:
        """Simulate one pass of a model of `depth` layers."""
        model = self._skeleton(request, depth)
        plan = resolved(params(model), request, check=False)
        freeze_(model, plan)
        if (scheme := request.kept) is not None:
            check_layers(model, trained_layers(model, plan.trained))
            put_(model, KeptInputs(scheme, request.seed))
        shifted = None if backward else Temporaries(plan, request.device == "cuda").drawing.alone
        told = inputs(model, request.batch, request.seq_len)
        with ExitStack() as chunks:
            if request.chunk is not None:
                chunks.enter_context(chunked_loss(model, request.chunk))
                chunks.enter_context(only_tiles_that_differ())
            return simulate(model, told, layers(model, depth), shifted, request.device, limit)


def resolved(found: list[Param], request: Request, check: bool = True) -> Plan:
    """Return the request's policy resolved on a model's parameters.

    Args:
        found: the parameters.
        request: the way to train.
        check: whether to refuse a route whose name pattern matches no parameter; never done with adapters.

    Raises:
        HybridOptError: nothing would be trained, or the check fails, as in `wrap`.
    """
    ready = request.ready
    plan = Plan.of(found, ready, request.seed)
    if not plan.trained:
        raise HybridOptError(
            f"nothing to train: policy={request.policy!r} freezes every parameter that is not quantized; add LoRA "
            "(lora=16), or leave the quantization out"
        )
    if check and request.lora is None:
        check_routes(ready, plan.tags)
    return plan


def freeze_(model: nn.Module, plan: Plan) -> None:
    """Set requires_grad=False on parameters that the plan freezes or trains without a backward pass."""
    for name, p in model.named_parameters():
        treatment = plan.trained.get(clean(name))
        if p.requires_grad and (treatment is None or not treatment.source.backward):
            p.requires_grad_(False)
