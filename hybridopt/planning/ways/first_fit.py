"""Try the ways to train one model, each in its first variant that fits."""

from dataclasses import replace
from typing import Any

from ...core.budget import Budget
from ...core.contracts import Scheme
from ...core.errors import HybridOptError
from ...core.host import Host
from ...core.sizes import gib
from ...model.quantization.scheme_names import called, named
from ...optimizer.releases import release_class
from ..estimate import Estimate
from ..estimator import Estimator
from ..request import Request
from ..subject.model import checkpoints, skeleton
from .changes import changed
from .choice import Choice
from .offloaded import placed_ways, rests_as
from .ways import VARIANTS, WAYS, Way

__all__ = ["Hunt"]

FREE = frozenset({"checkpointing", "chunk", "release"})  # what variants differ in
SIZES = ("seq_len", "batch", "micro_batches")  # on which neither weights nor state depend


class Hunt:
    """Search for ways to train one model within a memory.

    Args:
        estimator: of the model.
        room: bytes of the device.
        asked: settings of a Request that every way is to have.
        size: a Request with the sizes that every way has.
        all_sizes: also of ways that cannot fit by weights, state, and gradients that are not freed alone?
        host: beside the device, where layers may rest.
    """

    def __init__(
        self,
        estimator: Estimator,
        room: int,
        asked: dict[str, Any],
        size: Request,
        all_sizes: bool = True,
        host: Host | None = None,
    ):
        self.estimator, self.room, self.asked, self.size, self.host = estimator, room, asked, size, host
        self.all_sizes = all_sizes
        self.failed: HybridOptError | None = None  # the first way that the model does not take
        self._weights: dict[tuple, int] = {}
        self._near: set[tuple] = set()  # policies, adapters and bases that fit without placement
        self._chunks = True
        self._checkpoints = True

    def check(self) -> None:
        """Raise HybridOptError for a model of unknown depth, and for what no way could be asked for."""
        whole = self.size.but(**self.asked)
        source = self.estimator.source
        self._checkpoints = checkpoints(source)
        if whole.checkpointing and not self._checkpoints:
            skeleton(source, Request(checkpointing=True), min(2, source.depth))  # which says why not

    def ways(self) -> tuple[Way, ...]:
        """Return all ways, on a base of the scheme that is asked for where it is of the same kind as the way's."""
        name = self.asked.get("quantization")
        known = (*WAYS, *placed_ways(self.size.device, self.host, self.asked.get("placement") is not None))
        return known if name is None else tuple(_on_base(way, named(name, "plan")) for way in known)

    def wanted(self, way: Way) -> bool:
        """Return whether a way has the settings asked for; the rank of adapters may be another than the way's own."""
        fixed = {name: value for name, value in self.asked.items() if name not in FREE}
        if "lora" in fixed and (way.lora is None) != (fixed.pop("lora") is None):
            return False
        if "placement" in fixed and not rests_as(way.placement, fixed.pop("placement")):
            return False
        return all(way.settings[name] == value for name, value in fixed.items())

    def choice(self, way: Way) -> Choice | None:
        """Return a way in its first variant that fits, or else its smallest; None if the model does not take it."""
        try:
            own = {name: self.asked[name] for name in ("lora", "placement") if name in self.asked}
            request = self.estimator.settled(self.size.but(**way.settings | own), Budget(self.room), self.host)
            if way.placement is not None and _twin(way) in self._near:
                return None  # it fits without
            if not self.all_sizes and not self._hopeful(self._variants(request, self._chunks)):
                return None
            found = self._stayed(self._first(request))
        except HybridOptError as error:  # such as quantization of a model without linear layers
            self.failed = self.failed or error
            return None
        source = self.estimator.source
        fits = not found.missing(self.room) and not found.missing_on_host(self.host)
        self._near |= {_twin(way)} if fits else set()
        rate, _ = self.estimator.start_rate(found.request)
        return Choice(way, found, fits, rate, causal=source.causal, place=source.place)

    def change(self, choice: Choice) -> str | None:
        """Return the least harmful change that makes a choice fit, as text; None if no single change does."""
        for text, request in changed(choice.request):
            if self._least(choice.estimate, request) > self.room:
                continue  # without a pass on fake tensors
            try:
                found = self._estimate(request)
            except HybridOptError:
                continue
            if not found.missing(self.room):
                return f"{text}: {gib(found.peak_bytes)}"
        return None

    def _first(self, request: Request) -> Estimate:
        """Estimate the mildest variant that fits, or else the smallest; without chunks where a loss has none."""
        try:
            return self._among(self._variants(request, self._chunks))
        except HybridOptError:
            found = self._among(self._variants(request, False))
            self._chunks = False
            return found

    def _stayed(self, found: Estimate) -> Estimate:
        """Return the estimate with as many layers on the device as there is room for, unless that was asked for."""
        placement, carried = found.request.placement, found.carried
        if placement is None or carried is None or "placement" in self.asked:
            return found
        spare = self.room - found.peak_bytes
        most = min(carried.layers - 1, spare * placement.slots // max(1, found.near_bytes))
        for resident in range(most, 0, -1):
            more = self.estimator.estimate(found.request.but(placement=placement.but(resident=resident)))
            if not more.missing(self.room):
                return more
        return found

    def _among(self, variants: list[Request]) -> Estimate:
        """Estimate the first variant that fits, or else the smallest.

        What cannot fit is not simulated. Where there is much room the mildest is tried first, elsewhere the smallest:
        where that does not fit, no other does.
        """
        hopeful = self._hopeful(variants)
        roomy = bool(hopeful) and self.estimator.least(hopeful[0]) <= self.room / 2
        if roomy and not (mildest := self._estimate(hopeful[0])).missing(self.room):
            return mildest
        tried: list[Estimate] = []
        for request in _smallest(variants):
            tried.append(self._estimate(request))
            if not tried[-1].missing(self.room):
                found = map(self._estimate, hopeful)
                return next(e for e in found if not e.missing(self.room))
        return min(tried, key=lambda e: e.peak_bytes)

    def _hopeful(self, variants: list[Request]) -> list[Request]:
        """Return the variants whose weights, state, and gradients that are not freed, fit."""
        return [v for v in variants if self.estimator.least(v) <= self.room]

    def _estimate(self, request: Request) -> Estimate:
        found = self.estimator.estimate(request)
        self._weights[request.weights] = found.weights_bytes + found.quantization_bytes + found.overhead_bytes
        return found

    def _least(self, known: Estimate, changed: Request) -> int:
        """Return a lower bound on the bytes of a changed request: weights, and the state where only sizes change."""
        sizes = {name: getattr(known.request, name) for name in SIZES}
        state = known.state_bytes if changed.but(**sizes) == known.request else 0
        return self._weights.get(changed.weights, 0) + state

    def _variants(self, request: Request, chunks: bool) -> list[Request]:
        """Return a way as it can be varied, the mildest first; `chunks`: may its loss be computed in chunks?"""
        fixed = {name: self.asked[name] for name in FREE & self.asked.keys()}
        found = [v for v in VARIANTS if chunks or not v["chunk"]]
        found = [v for v in found if self._checkpoints or not v["checkpointing"]]
        if request.probes:
            found = [
                v for v in found if not v["checkpointing"] and not release_class(str(v["release"])).frees_gradients
            ]
        return [request.but(**v) for v in {tuple((v | fixed).items()): v | fixed for v in found}.values()]


def _on_base(way: Way, scheme: Scheme) -> Way:
    own = None if way.quantization is None else called(way.quantization, "plan")
    if own is None or own == scheme or (own.bits, own.trains) != (scheme.bits, scheme.trains):
        return way
    return replace(way, title=way.title.replace(own.title, scheme.title), quantization=scheme.name)


def _twin(way: Way) -> tuple:
    """Return what a way has in common with the same way without placement."""
    return way.policy, way.lora, way.quantization


def _smallest(variants: list[Request]) -> list[Request]:
    """Return the variants that may be smallest: the last, and the last whose loss is computed at once."""
    whole = [v for v in variants if v.chunk is None]
    return [variants[-1], *(whole[-1:] if variants[-1].chunk is not None else [])]
