"""The rows of other packages, on the same weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from . import originals
from .ahead import Extension
from .compiled import CompiledAdamW, CompiledSignSGD
from .measure import LR, Make, Subject
from .originals import Params
from .sets import Model


@dataclass(frozen=True)
class Peer:
    """Makes a subject from named parameters and the model's sizes, if its package is there.

    Args:
        package: its name when it is imported.
        make: the subject.
        compiles: what the package compiles when it is first used, if that takes minutes.
    """

    package: str
    make: Callable[[Params, Model], Subject]
    compiles: Extension | None = None

    @property
    def installed(self) -> bool:
        """Tell whether the package can be imported."""
        return find_spec(self.package) is not None

    @property
    def cure(self) -> str:
        """Return the command that installs it."""
        return f"pip install {NAMED.get(self.package, self.package).replace('_', '-')}"


NAMED = {"optimi": "torch-optimi"}  # packages that PyPI has under another name
CPU_ADAM = Extension("cpu_adam", "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()")
PEERS = {
    "torch.adamw-fused": Peer("torch", partial(originals.adamw, fused=True)),
    "torch.adamw-foreach": Peer("torch", partial(originals.adamw, foreach=True)),
    "torch.adamw-loop": Peer("torch", partial(originals.adamw, foreach=False, fused=False)),
    "torch.sgd-fused": Peer("torch", originals.sgd),
    "compiled.signsgd": Peer("torch", lambda params, llama: originals.of(CompiledSignSGD(params.values(), LR))),
    "compiled.adamw": Peer("torch", lambda params, llama: originals.of(CompiledAdamW(params.values(), LR))),
    "torch.adafactor-loop": Peer("torch", partial(originals.adafactor, foreach=False)),
    "torch.adafactor-foreach": Peer("torch", partial(originals.adafactor, foreach=True)),
    "transformers.adafactor": Peer("transformers", originals.transformers_adafactor),
    "torch.muon": Peer("torch", originals.muon),
    "lomo-optim.lomo": Peer("lomo_optim", originals.lomo),
    "lomo-optim.adalomo": Peer("lomo_optim", originals.adalomo),
    "adam-mini": Peer("adam_mini", originals.adam_mini),
    "came-pytorch": Peer("came_pytorch", originals.came),
    "galore-torch": Peer("galore_torch", originals.galore),
    "apollo-torch": Peer("apollo_torch", originals.apollo),
    "apollo-torch-mini": Peer("apollo_torch", partial(originals.apollo, rank=1, scale=128, scale_type="tensor")),
    "bitsandbytes.adamw8bit": Peer("bitsandbytes", originals.bitsandbytes),
    "torchao.adamw8bit": Peer("torchao", originals.torchao),
    "optimi.adamw": Peer("optimi", originals.optimi),
    "deepspeed.cpu-adam": Peer("deepspeed", originals.deepspeed, CPU_ADAM),
}


def rows(llama: Model) -> dict[str, Make]:
    """Return what makes each row's optimizer, by name; `missing` tells which of them cannot."""
    return {name: maker(peer, llama) for name, peer in PEERS.items()}


def maker(peer: Peer, llama: Model) -> Make:
    """Return what makes a peer's optimizer for the sizes of one model."""
    return lambda params: peer.make(params, llama)


def uncompiled(row: str, seconds: float) -> str | None:
    """Let the package of a row compile what it needs; return why that was not possible, None if it was.

    Args:
        row: its name.
        seconds: that compiling may take.
    """
    extension = PEERS[row].compiles if row in PEERS else None
    return None if extension is None else extension.why_not(seconds)


def missing() -> dict[str, str]:
    """Return, for each row whose package is not there, the reason why it is not measured."""
    return {
        name: f"{peer.package} is not installed: {peer.cure}" for name, peer in PEERS.items() if not peer.installed
    }
