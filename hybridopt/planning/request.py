"""What is to be planned: a policy and everything around it that costs memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..core.contracts import Scheme
from ..core.errors import HybridOptError, check_choice, check_count
from ..core.registry import names, pack
from ..model.quantization.known import frozen_names, named
from ..optimizer.releases import DEFAULT, release_class
from ..policy.routes import Ready, read_policy

__all__ = ["DTYPES", "Request", "short_name"]

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
COUNTS = {"seq_len": 1, "batch": 1, "micro_batches": 1, "seed": 0}


def short_name(dtype: Any) -> str | None:
    """What a request calls a torch.dtype; None for those that are not planned."""
    return next((short for short, name in DTYPES.items() if str(dtype) == f"torch.{name}"), None)


@dataclass(frozen=True)
class Request:
    """One way to train, as it would be given to `hybridopt.wrap` and `model.hybrid.optimizer`.

    policy, options: of `wrap`. lora: rank of a LoRA adapter on all linear layers; None: no adapter. quantization: of
    the base. release: by name. seq_len tokens in each of `batch` sequences of a pass, `micro_batches`
    passes a step. checkpointing: every layer's activations are made anew in the backward pass. chunk: tokens of which
    the loss is computed at a time, as by `hybridopt.chunked_loss`. dtype: of the weights that are not quantized.
    device: "cuda" plans for a GPU, "cpu" for what the CPU's kernels take. peft_config: the adapters themselves, if
    they are others than `lora` stands for.
    """

    policy: str | Ready = "frugal"
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: int | None = None
    quantization: str | None = None
    release: str = DEFAULT
    seq_len: int = 2048
    batch: int = 1
    micro_batches: int = 1
    checkpointing: bool = False
    chunk: int | None = None
    dtype: str = "bf16"
    device: str = "cuda"
    seed: int = 0
    peft_config: Any = field(default=None, compare=False)

    def __post_init__(self):
        for name, low in COUNTS.items():
            check_count("plan", name, getattr(self, name), low)
        for name in ("lora", "chunk"):
            if getattr(self, name) is not None:
                check_count("plan", name, getattr(self, name), 1)
        check_choice("plan", "release", self.release, names("releases"))
        check_choice("plan", "dtype", self.dtype, DTYPES)
        check_choice("plan", "device", self.device, ("cuda", "cpu"))
        scheme = self.scheme
        if scheme is not None:
            object.__setattr__(self, "quantization", scheme.name)
        if scheme is not None and scheme.trains and self.lora is not None:
            raise HybridOptError(
                f"quantization={scheme.name!r} trains the base weights, and LoRA freezes them; leave lora out, or "
                f"take quantization={frozen_names()}"
            )
        read_policy(self.policy, dict(self.options))  # bad names and options show now

    @property
    def scheme(self) -> Scheme | None:
        """The quantization scheme of the base."""
        return None if self.quantization is None else named(self.quantization, "plan")

    @property
    def ready(self):
        """The policy itself."""
        return read_policy(self.policy, dict(self.options))

    @property
    def probes(self) -> bool:
        """Is there no backward pass?"""
        return all(route.use is None or not route.use.source.backward for route in self.ready.routes)

    @property
    def frees_gradients(self) -> bool:
        """Return whether gradients are used and freed within the backward pass."""
        return release_class(self.release).frees_gradients

    @property
    def reentrant(self) -> bool:
        """The kind of checkpointing: some quantized layers free their inputs with the reentrant one only."""
        return self.scheme is not None and self.scheme.reentrant

    @property
    def weights(self) -> tuple:
        """What the bytes of weights depend on, and those of an update."""
        return self.lora, self.quantization, self.dtype, self.device, repr(self.peft_config)

    @property
    def structure(self) -> tuple:
        """What the forward and backward passes depend on; requests that share it share their activations."""
        return *self.weights, self.seq_len, self.batch, self.checkpointing, self.chunk

    def as_dict(self) -> dict[str, Any]:
        """Plain data; a policy that is no name goes by that of its class."""
        name = self.policy if isinstance(self.policy, str) else type(self.policy).__name__
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "peft_config"}
        return own | {"policy": name, "options": {k: pack(v) for k, v in self.options.items()}}

    def but(self, **changes: Any) -> "Request":
        """The same with changes."""
        return replace(self, **changes)
