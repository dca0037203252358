"""Run a real forward and backward pass on fake tensors, to see which bytes are alive when, without a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.adapters import bare
from ...model.quantization.scales import scales
from ...model.roles import clean
from ..subject.inputs import check_length
from .fake_models import converted_, empty, tensors_of
from .moments import Limit, Moment
from .tracker import Tracker
from .without_memory import fake_tensors

__all__ = ["Limit", "Trace", "simulate"]


@dataclass(frozen=True)
class Trace:
    """The intervals of a forward and a backward pass, each ended by the next stage or by a parameter's gradient.

    A gradient counts until it is complete, and not after: how long it is kept then depends on the release.

    Args:
        moments: the maximum of each interval, in order. Stages are ("start",), ("forward", i) for layer i, ("head",),
            ("backward", i) and ("end",).
        depth: number of repeated layers of the model.
        path: name of the module that lists them; "" if there is none.
        operations: how many were run.
    """

    moments: tuple[Moment, ...]
    depth: int
    path: str = ""
    operations: int = 0

    @property
    def probes(self) -> bool:
        """Return whether there is no backward pass."""
        return all(moment.stage[0] not in ("backward", "end") for moment in self.moments)


def simulate(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    layers: nn.ModuleList | None,
    shifted: Mapping[str, int] | None,
    device: str,
    limit: Limit = Limit(),  # noqa: B008 (it is frozen)
) -> Trace:
    """Run a model on fake tensors and return what was alive when.

    Args:
        model: is spoilt, as its tensors are replaced by fake ones for good.
        inputs: what the model is called with, by name; only shapes and dtypes count.
        layers: the repeated layers, to tell stages apart; None if there are none.
        shifted: None runs forward and backward pass. Otherwise only the forward pass runs, at shifted copies of these
            parameters, as zeroth-order methods do; by name, the bytes that making the copy takes for a moment.
        device: "cuda" or "cpu", whose kernels count.
        limit: on operations, and whether all of them are noted.

    Raises:
        HybridOptError: the model does not run on such inputs.
        Limit.Reached: there were more operations than the limit has.
    """
    check_length(model, inputs)
    try:
        return _run(model, inputs, layers, shifted, device, limit)
    except (HybridOptError, Limit.Reached):
        raise
    except Exception as error:  # whatever the model raises
        told = ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
        raise HybridOptError(
            f"{type(bare(model)).__name__} does not run on {told}: {error!r:.300}; wrap the model, and give "
            "model.hybrid.memory(batch=...) what it trains on"
        ) from error


def _run(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    layers: nn.ModuleList | None,
    shifted: Mapping[str, int] | None,
    device: str,
    limit: Limit,
) -> Trace:
    _keep_angles(model)
    with fake_tensors(device) as fakes:
        converted_(model, empty)
        batch = {name: torch.zeros(x.shape, dtype=x.dtype, device="cpu") for name, x in inputs.items()}
        tracker = Tracker([*tensors_of(model), *batch.values()], device, limit, fakes)
        _mark(list(layers or ()), tracker)
        _on_gradients(model, tracker) if shifted is None else _shift(model, shifted, tracker)
        with tracker, torch.set_grad_enabled(shifted is None):
            loss = _loss(model, batch)
            if shifted is None:
                tracker.enter(("head",), backward=True)
                loss.backward()
            tracker.end()
    path = next((clean(name) for name, module in model.named_modules() if module is layers), "")
    return Trace(tuple(tracker.moments), len(layers or ()), path, tracker.operations)


def _keep_angles(model: nn.Module) -> None:
    """Make dynamic rotary embeddings static: growth depends on values, which fake tensors lack, and takes little."""
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict):
            vars(module)["rope_type"] = {name: "default" if "dynamic" in one else one for name, one in kind.items()}
        elif isinstance(kind, str) and "dynamic" in kind:
            vars(module)["rope_type"] = "default"


def _loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    loss = getattr(model(**batch), "loss", None)
    if not isinstance(loss, Tensor):
        raise HybridOptError(
            f"{type(bare(model)).__name__} returns no loss for {sorted(batch)}; plan a model with a head to train, "
            "such as one ...ForCausalLM, or wrap it and give model.hybrid.memory(batch=...) what it trains on"
        )
    return loss


def _mark(layers: Sequence[nn.Module], tracker: Tracker) -> None:
    """Register hooks on layers that tell the tracker when each begins, forward and backward."""
    for i, layer in enumerate(layers):
        layer.register_forward_pre_hook(_Begin(tracker, i), with_kwargs=True)
        layer.register_forward_hook(_End(tracker, i, i == len(layers) - 1))


class _Begin:
    def __init__(self, tracker: Tracker, index: int):
        self.tracker, self.index = tracker, index

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.tracker.after:  # made anew by checkpointing
            self.tracker.enter(("backward", self.index))
            return
        self.tracker.enter(("forward", self.index))
        x = args[0] if args else kwargs.get("hidden_states")
        if self.index == 0 and isinstance(x, Tensor) and x.requires_grad:
            x.register_hook(lambda _: self.tracker.enter(("end",)))


class _End:
    def __init__(self, tracker: Tracker, index: int, last: bool):
        self.tracker, self.index, self.last = tracker, index, last

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], out: object) -> None:
        if self.tracker.after:
            return
        x = out[0] if isinstance(out, tuple) else out
        if isinstance(x, Tensor) and x.requires_grad:
            x.register_hook(lambda _: self.tracker.enter(("backward", self.index)))
        if self.last:
            self.tracker.enter(("head",))


def _on_gradients(model: nn.Module, tracker: Tracker) -> None:
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(_Done(tracker, clean(name)))


class _Done:
    def __init__(self, tracker: Tracker, name: str):
        self.tracker, self.name = tracker, name

    def __call__(self, p: Tensor) -> None:
        self.tracker.end(self.name, p.grad)
        p.grad = None
        self.tracker.settle()


def _shift(model: nn.Module, rooms: Mapping[str, int], tracker: Tracker) -> None:
    """Register hooks on modules that copy their own parameters named in `rooms` while each module computes."""
    owned: dict[nn.Module, list[tuple[Tensor, int]]] = {}
    for name, module in model.named_modules():
        own = ((p, clean(f"{name}.{n}")) for n, p in module._parameters.items() if p is not None)
        owned[module] = [(p, rooms[full]) for p, full in own if full in rooms]
    for name, module, scale in scales(model):
        owned[module] += [(scale, rooms[clean(name)])] if clean(name) in rooms else []
    for module, tensors in owned.items():
        if tensors:
            copies = _Copies(tensors, tracker)
            module.register_forward_pre_hook(copies.make)
            module.register_forward_hook(copies.drop, always_call=True)


class _Copies:
    copies: list[Tensor]

    def __init__(self, tensors: list[tuple[Tensor, int]], tracker: Tracker):
        self.tensors, self.tracker, self.copies = tensors, tracker, []

    def make(self, *_: object) -> None:
        for x, room in self.tensors:
            self.copies.append(torch.empty_like(x))
            self.tracker.bump(room)

    def drop(self, *_: object) -> None:
        self.copies = []
