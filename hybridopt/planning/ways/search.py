"""Search for the ways to train that fit a memory, closest to AdamW on all weights first."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.budget import Budget, budget
from ...core.contracts import Scheme
from ...core.errors import HybridOptError
from ...core.sizes import gib
from ...model.quantization.known import called, named
from ...optimizer.releases import release_class
from ..estimate import Estimate
from ..estimator import Estimator
from ..request import Request
from ..subject.inputs import small, usual_length
from ..subject.model import checkpoints, skeleton
from ..subject.source import subject_of
from .changes import changed
from .choice import Choice
from .ways import VARIANTS, WAYS, Way

__all__ = ["Choice", "search"]

FREE = frozenset({"checkpointing", "chunk", "release"})  # what variants differ in
SIZES = ("seq_len", "batch", "micro_batches")  # on which neither weights nor state depend


def search(
    model: object,
    memory: str | int | Budget,
    *,
    margin: float | None = None,
    asked: Mapping[str, Any] | None = None,
    watch: Callable[[Sequence[Way]], Iterable[Way]] = iter,
    enough: int | None = None,
    estimator: Estimator | None = None,
    **size: Any,
) -> list[Choice]:
    """Return all ways to train a model: those that fit, those that fit only into the margin, the rest; each in rank.

    Args:
        model: as for `plan`: a known name, a path, or transformers' configuration.
        memory: a card ("4090", "auto" for that of this machine), a size ("24GiB"), or a number of bytes.
        margin: share of the memory that is kept free; None: 4 %.
        asked: lora, quantization, release, checkpointing, chunk of a `Request`, where only such ways are wanted.
        watch: is given the ways, returns them one by one, and may show how far the search is.
        enough: so many ways that fit end the search, and nothing is said of those that do not; None: all are tried.
        estimator: of the model; None: one is made.
        **size: seq_len (2048, or as many as there are positions for), batch, micro_batches, dtype, device,
            peft_config, adapter_dtype of a `Request`.

    Raises:
        HybridOptError: nothing fits, not even into the margin, no way is as asked for, or the model cannot be planned.
    """
    room = budget(memory, margin)
    estimator = estimator or Estimator(subject_of(model))
    if "seq_len" not in size:
        size["seq_len"] = usual_length(small(estimator.source))
    hunt = _Hunt(estimator, room.usable, dict(asked or {}), Request(**size), all_sizes=enough is None)
    hunt.check()
    wanted = [way for way in hunt.ways() if hunt.wanted(way)]
    found = list(_up_to(enough, (choice for way in watch(wanted) if (choice := hunt.choice(way)) is not None)))
    if not found:
        raise hunt.failed or _none({name: value for name, value in hunt.asked.items() if value is not None})
    fitting = [choice for choice in found if choice.fits]
    tight = [replace(c, tight=True) for c in found if c.estimate.tight(room)]
    if not fitting and not tight:
        raise _nothing(found, room)
    rest = [c for c in found if c.estimate.peak_bytes > room.total]
    return [*fitting, *tight, *(replace(c, change=None if enough else hunt.change(c)) for c in rest)]


def _up_to(enough: int | None, choices: Iterator[Choice]) -> Iterator[Choice]:
    """Yield choices, no more after so many that fit."""
    for choice in choices:
        yield choice
        enough = enough if enough is None or not choice.fits else enough - 1
        if enough == 0:
            return


def _none(asked: dict[str, Any]) -> HybridOptError:
    return HybridOptError(f"no known way to train has {asked}; leave some of it out, or give a policy")


def _nothing(found: list[Choice], room: Budget) -> HybridOptError:
    least = min(found, key=lambda c: c.estimate.peak_bytes)
    e, r = least.estimate, least.request
    return HybridOptError(
        f"{e.model}: nothing fits into {room}: the least, {least.way.title}, takes {gib(e.peak_bytes)} "
        f"({gib(e.weights_bytes + e.quantization_bytes)} of it weights) with {r.batch} x {r.seq_len} tokens, so "
        f"{gib(e.missing(room.usable))} are missing; take a smaller model, a larger GPU, or shorter sequences"
    )


class _Hunt:
    """Search for ways to train one model within `room` bytes, with sizes and settings given."""

    def __init__(self, estimator: Estimator, room: int, asked: dict[str, Any], size: Request, all_sizes: bool = True):
        self.estimator, self.room, self.asked, self.size = estimator, room, asked, size
        self.all_sizes = all_sizes  # also of ways whose weights and state alone do not fit?
        self.failed: HybridOptError | None = None  # the first way that the model does not take
        self._weights: dict[tuple, int] = {}
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
        return WAYS if name is None else tuple(_on_base(way, named(name, "plan")) for way in WAYS)

    def wanted(self, way: Way) -> bool:
        """Return whether a way has the settings asked for; the rank of adapters may be another than the way's own."""
        fixed = {name: value for name, value in self.asked.items() if name not in FREE}
        if "lora" in fixed and (way.lora is None) != (fixed.pop("lora") is None):
            return False
        return all(way.settings[name] == value for name, value in fixed.items())

    def choice(self, way: Way) -> Choice | None:
        """Return a way in its first variant that fits, or else its smallest; None if the model does not take it."""
        try:
            lora = {"lora": self.asked["lora"]} if "lora" in self.asked else {}
            request = self.size.but(**way.settings | lora)
            if not self.all_sizes and self.estimator.least(request) > self.room:
                return None
            found = self._first(request)
        except HybridOptError as error:  # such as quantization of a model without linear layers
            self.failed = self.failed or error
            return None
        source = self.estimator.source
        return Choice(way, found, not found.missing(self.room), causal=source.causal, place=source.place)

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
            return self._among([request.but(**v) for v in self._variants(request, self._chunks)])
        except HybridOptError:
            found = self._among([request.but(**v) for v in self._variants(request, False)])
            self._chunks = False
            return found

    def _among(self, variants: list[Request]) -> Estimate:
        """Estimate the first variant that fits, or else the smallest.

        What cannot fit is not simulated. Where there is much room the mildest is tried first, elsewhere the smallest:
        where that does not fit, no other does.
        """
        hopeful = [v for v in variants if self.estimator.least(v) <= self.room]
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

    def _estimate(self, request: Request) -> Estimate:
        found = self.estimator.estimate(request)
        self._weights[request.weights] = found.weights_bytes + found.quantization_bytes + found.overhead_bytes
        return found

    def _least(self, known: Estimate, changed: Request) -> int:
        """Return a lower bound on the bytes of a changed request: weights, and the state where only sizes change."""
        sizes = {name: getattr(known.request, name) for name in SIZES}
        state = known.state_bytes if changed.but(**sizes) == known.request else 0
        return self._weights.get(changed.weights, 0) + state

    def _variants(self, request: Request, chunks: bool) -> list[dict[str, Any]]:
        fixed = {name: self.asked[name] for name in FREE & self.asked.keys()}
        found = [v for v in VARIANTS if chunks or not v["chunk"]]
        found = [v for v in found if self._checkpoints or not v["checkpointing"]]
        if request.probes:
            found = [
                v for v in found if not v["checkpointing"] and not release_class(str(v["release"])).frees_gradients
            ]
        return list({tuple((v | fixed).items()): v | fixed for v in found}.values())


def _on_base(way: Way, scheme: Scheme) -> Way:
    own = None if way.quantization is None else called(way.quantization, "plan")
    if own is None or own == scheme or (own.bits, own.trains) != (scheme.bits, scheme.trains):
        return way
    return replace(way, title=way.title.replace(own.title, scheme.title), quantization=scheme.name)


def _smallest(variants: list[Request]) -> list[Request]:
    """Return the variants that may be smallest: the last, and the last whose loss is computed at once."""
    whole = [v for v in variants if v.chunk is None]
    return [variants[-1], *(whole[-1:] if variants[-1].chunk is not None else [])]
