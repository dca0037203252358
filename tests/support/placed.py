"""A tiny model in a folder, and how it trains: resident, or with layers that rest elsewhere."""

import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig
from torch import Tensor, nn

import hybridopt
from hybridopt.core.files.tensors import extents
from hybridopt.model.placement.backends.relayed import Relayed
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.placed import Placed, placed
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.placing import place_
from support.lazy_lane import LazyLane
from support.models import batch, tiny_llama

LAYERS = 4
CPU = torch.device("cpu")
TARGETS = {"all": "all-linear", "q, v": ["q_proj", "v_proj"]}
WAYS = ("mapped", "staged")
_KEPT: list[TemporaryDirectory] = []  # until the tests are over


@cache
def folder(tie: bool = False, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A folder with a Llama of four layers, 64 wide, as transformers saves it; nobody may write into it."""
    _KEPT.append(TemporaryDirectory(prefix="hybridopt-placed-"))
    path = Path(_KEPT[-1].name) / "llama"
    tiny_llama(layers=LAYERS, tie=tie).to(dtype).save_pretrained(path)
    return path


@cache
def cache_folder() -> str:
    """A folder for weights of layers that no file holds as they are used."""
    _KEPT.append(TemporaryDirectory(prefix="hybridopt-placed-cache-"))
    return _KEPT[-1].name


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

    Args:
        scheme: of the base; None: bf16.
        checkpointing: None, "reentrant" or "non-reentrant".
        targets: "all" linear layers, or "q, v".
        release: of gradients.
    """

    scheme: str | None = None
    checkpointing: str | None = None
    targets: str = "all"
    release: str = "accumulate"

    def __str__(self):
        return f"{self.scheme or 'bf16'}, {self.checkpointing}, {self.targets}, {self.release}"


@dataclass
class Trained:
    """What came of it: the losses, the gradients of every step by name, the adapters, and the model."""

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    adapters: dict[str, Tensor] = field(default_factory=dict)
    model: nn.Module | None = None


def stand_in(model, slots: int = 2, backend=Staged, **placement) -> Placed:
    """Place a model on the host, with the CPU in the place of an accelerator."""
    return place_(model, Placement("host", slots=slots, **placement), CPU, backend=backend)


class Late(Relayed):
    """Weights on disk for a device, on a lane that copies as late as it may."""

    def __init__(self, device, traffic, options):
        super().__init__(device, traffic, options)
        self.lane = LazyLane()


def on_disk(model, path: Path, **placement) -> Placed:
    """Let a model rest in the file that it was loaded from, with the CPU in the place of an accelerator."""
    file = path / "model.safetensors"
    stored = {name: (file, extent) for name, extent in extents(file).items()}
    return place_(model, Placement("disk", **placement), CPU, stored, backend=Late)


@cache
def loaded(path: Path) -> nn.Module:
    """The model of a folder as it is loaded; nobody may change it."""
    return hybridopt.load(path)


def model_at(way: str, scheme: str | None = None, slots: int = 2, path: Path | None = None, **placement) -> nn.Module:
    """The model of a folder: "resident", "mapped" from disk, or "staged" or "relayed" on a stand-in; not wrapped."""
    kept = {"cache": cache_folder()} if scheme else {}
    where = Placement("disk", slots=slots, **kept | placement) if way == "mapped" else None
    path = path or folder()
    plain = where is None and scheme is None
    model = copy.deepcopy(loaded(path)) if plain else hybridopt.load(path, quantization=scheme, placement=where)
    if way == "staged":
        stand_in(model, slots, **placement)
    if way == "relayed":
        on_disk(model, path, slots=slots, **placement)
    return model


def lora(targets: str = "all", **options) -> LoraConfig:
    return LoraConfig(r=4, target_modules=TARGETS[targets], **options)


def adapted(model, training: Training = Training(), seed: int = 1, **wrap) -> nn.Module:
    """The model with adapters that already do something, wrapped and ready to train."""
    torch.manual_seed(seed)
    model = hybridopt.wrap(model, peft_config=lora(training.targets, init_lora_weights=False), **wrap)
    if training.checkpointing is not None:
        reentrant = training.checkpointing == "reentrant"
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    return model.train()


def train(model, steps: int = 5, release: str = "accumulate", lr: float = 1e-2) -> Trained:
    """Train a wrapped model for some steps, and return all that can be compared."""
    optimizer = model.hybrid.optimizer(lr=lr, release=release)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = Trained(model=model)
    hooks = [p.register_hook(lambda g, n=n: found.gradients[-1].update({n: g.clone()})) for n, p in trained.items()]
    for step in range(steps):
        found.gradients.append({})
        loss = model(**batch(model, size=2, seed=step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.losses.append(loss.item())
    for hook in hooks:
        hook.remove()
    found.adapters = {n: p.detach().clone() for n, p in trained.items()}
    return found


def run(way: str, training: Training = Training(), steps: int = 5, **how) -> Trained:
    """Load, wrap and train; see `model_at` for the ways."""
    return train(adapted(model_at(way, training.scheme, **how), training), steps, training.release)


def differences(one: Trained, two: Trained) -> list[str]:
    """What is not the same to the last bit, by name."""
    found = ["losses"] if one.losses != two.losses else []
    pairs = [("gradients", *each) for each in zip(one.gradients, two.gradients, strict=True)]
    for kind, mine, theirs in (*pairs, ("adapters", one.adapters, two.adapters)):
        assert mine and mine.keys() == theirs.keys()
        found += [f"{kind} of {n}" for n in mine if not torch.equal(mine[n], theirs[n])]
    return found


def all_at_rest(model) -> bool:
    """Whether nothing of a placed model is near."""
    return not placed(model).streamer.near
