"""A real forward and backward pass on fake tensors: what is alive when, without memory and without a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.errors import HybridOptError
from ...model.adapters import bare
from ...model.quantization.scales import scales
from ...model.roles import clean
from ..subject.inputs import check_length
from .fake_models import converted_, empty, tensors_of
from .tracker import Moment, Tracker
from .without_memory import fake_tensors

__all__ = ["Trace", "simulate"]


@dataclass(frozen=True)
class Trace:
    """The intervals of a forward and a backward pass, each ended by a stage or by a parameter's gradient.

    Gradients count until they are complete, and not after: who keeps them is for the policy to say. depth: repeated
    layers of the model, `path` where they lie in it. Stages: ("start",), ("forward", i) for layer i, ("head",),
    ("backward", i), ("end",).
    """

    moments: tuple[Moment, ...]
    depth: int
    path: str = ""


def simulate(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    layers: nn.ModuleList | None,
    shifted: Mapping[str, int] | None,
    device: str,
) -> Trace:
    """Run a model, whose tensors are replaced by fake ones for good, on inputs of which only shapes and dtypes count.

    shifted: None runs forward and backward pass; names of parameters run the forward pass alone, at shifted copies of
    these parameters, as zeroth-order methods do, each with the bytes that making the copy takes for a moment. device:
    "cuda" or "cpu", whose kernels count. Raises HybridOptError for a model that does not run on such inputs.
    """
    check_length(model, inputs)
    try:
        return _run(model, inputs, layers, shifted, device)
    except HybridOptError:
        raise
    except Exception as error:  # whatever the model raises
        told = ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
        raise HybridOptError(
            f"{type(bare(model)).__name__} does not run on {told}: {error!r:.300}; wrap the model, and give "
            "model.hybrid.memory(batch=...) what it trains on"
        ) from error


def _run(model, inputs, layers, shifted, device) -> Trace:
    _keep_angles(model)
    with fake_tensors(device):
        converted_(model, empty)
        batch = {name: torch.zeros(x.shape, dtype=x.dtype, device="cpu") for name, x in inputs.items()}
        tracker = Tracker([*tensors_of(model), *batch.values()], device)
        _mark(list(layers or ()), tracker)
        _on_gradients(model, tracker) if shifted is None else _shift(model, shifted, tracker)
        with tracker, torch.set_grad_enabled(shifted is None):
            loss = _loss(model, batch)
            if shifted is None:
                tracker.enter(("head",), backward=True)
                loss.backward()
            tracker.end()
    path = next((clean(name) for name, module in model.named_modules() if module is layers), "")
    return Trace(tuple(tracker.moments), len(layers or ()), path)


def _keep_angles(model):
    """Without values nobody can tell whether rotary embeddings grow, which takes no memory worth a word."""
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict):
            module.rope_type = {name: "default" if "dynamic" in one else one for name, one in kind.items()}
        elif isinstance(kind, str) and "dynamic" in kind:
            module.rope_type = "default"


def _loss(model, batch) -> Tensor:
    loss = getattr(model(**batch), "loss", None)
    if not isinstance(loss, Tensor):
        raise HybridOptError(
            f"{type(bare(model)).__name__} returns no loss for {sorted(batch)}; plan a model with a head to train, "
            "such as one ...ForCausalLM, or wrap it and give model.hybrid.memory(batch=...) what it trains on"
        )
    return loss


def _mark(layers, tracker):
    """Tell the tracker when a layer begins, forward and backward."""
    for i, layer in enumerate(layers):
        layer.register_forward_pre_hook(_Begin(tracker, i), with_kwargs=True)
        layer.register_forward_hook(_End(tracker, i, i == len(layers) - 1))


class _Begin:
    def __init__(self, tracker: Tracker, index: int):
        self.tracker, self.index = tracker, index

    def __call__(self, layer, args, kwargs):
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

    def __call__(self, layer, args, out):
        if self.tracker.after:
            return
        x = out[0] if isinstance(out, tuple) else out
        if isinstance(x, Tensor) and x.requires_grad:
            x.register_hook(lambda _: self.tracker.enter(("backward", self.index)))
        if self.last:
            self.tracker.enter(("head",))


def _on_gradients(model, tracker):
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(_Done(tracker, clean(name)))


class _Done:
    def __init__(self, tracker: Tracker, name: str):
        self.tracker, self.name = tracker, name

    def __call__(self, p):
        self.tracker.end(self.name, p.grad)
        p.grad = None
        self.tracker.settle()


def _shift(model, rooms, tracker):
    """While a module computes, there are copies of those of its own parameters."""
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
    def __init__(self, tensors: list[tuple[Tensor, int]], tracker: Tracker):
        self.tensors, self.tracker, self.copies = tensors, tracker, []

    def make(self, *_):
        for x, room in self.tensors:
            self.copies.append(torch.empty_like(x))
            self.tracker.bump(room)

    def drop(self, *_):
        self.copies = []
