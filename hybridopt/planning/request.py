"""Describe what is to be planned: a policy and everything around it that costs memory."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch

from ..core.contracts import Activations, Scheme
from ..core.dtypes import DTYPES, short_dtype
from ..core.errors import HybridOptError, check_choice
from ..core.registry import names, pack
from ..model.activations.scheme import read_activations
from ..model.adapters import dtype_of_adapters
from ..model.placement.placement import Placement, read_placement
from ..model.quantization.scheme_names import frozen_names, named
from ..optimizer.releases import DEFAULT, release_class
from ..policy.routes import Ready, read_policy
from .limits import PARALLEL, check_pass, check_size

__all__ = ["Request", "short_name"]

COUNTS = ("seq_len", "batch", "micro_batches", "seed", "gpus")


def short_name(dtype: torch.dtype) -> str | None:
    """Return the name that a Request has for a dtype, such as "bf16"; None for those that cannot be planned."""
    return next((short for short, name in DTYPES.items() if str(dtype) == f"torch.{name}"), None)


@dataclass(frozen=True)
class Request:
    """One way to train, as it would be given to `hybridopt.wrap` and `model.hybrid.optimizer`.

    Args:
        policy: a name, or a policy itself.
        options: of the named policy, as `wrap` takes them.
        lora: rank of LoRA adapters on all linear layers; None: no adapters.
        quantization: scheme of the base; None: not quantized.
        release: how gradients are released, by name, such as "accumulate" or "fused".
        seq_len: tokens of a sequence.
        batch: sequences of a forward pass, of each GPU.
        micro_batches: passes of a step.
        checkpointing: whether every layer's activations are computed again in the backward pass.
        chunk: tokens of which the loss is computed at a time, as by `hybridopt.chunked_loss`; None: all at once.
        dtype: of the weights that are not quantized: "bf16", "fp16" or "fp32".
        device: "cuda" plans for a GPU, "cpu" for what the CPU's kernels take.
        seed: of every random choice.
        peft_config: the adapters themselves, where they are others than `lora` stands for.
        adapter_dtype: what adapters are kept in, "float32", "bfloat16" or "float16"; None: what their library makes.
        placement: where the weights of layers rest between their uses, as `load` takes it; None: on the device.
        activations: what trained linear layers keep of their inputs, as `wrap` takes it; None: everything.
        gpus: that train together; bytes are those of one of them.
        parallel: how, where there are several: "fsdp" shards every layer and the rest (FSDP2), "ddp" keeps replicas.

    Raises:
        HybridOptError: a value is not allowed, or values exclude one another.
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
    adapter_dtype: str | None = None
    placement: Placement | None = None
    activations: str | Activations | None = None
    gpus: int = 1
    parallel: str = "fsdp"

    def __post_init__(self) -> None:
        for name in COUNTS:
            check_size(name, getattr(self, name))
        check_pass(self.batch, self.seq_len)
        for name in ("lora", "chunk"):
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        check_choice("plan", "release", self.release, names("releases"))
        object.__setattr__(self, "dtype", short_dtype("plan", "dtype", self.dtype))
        check_choice("plan", "device", self.device, ("cuda", "cpu"))
        check_choice("plan", "parallel", self.parallel, PARALLEL)
        dtype = dtype_of_adapters("plan", self.adapter_dtype)
        object.__setattr__(self, "adapter_dtype", dtype and str(dtype).removeprefix("torch."))
        object.__setattr__(self, "placement", read_placement(self.placement, "plan"))
        object.__setattr__(self, "activations", self.kept)
        scheme = self.scheme
        if self.gpus > 1:
            self._check_several()
        if scheme is not None:
            object.__setattr__(self, "quantization", scheme.name)
        if scheme is not None and scheme.trains and self.lora is not None:
            raise HybridOptError(
                f"quantization={scheme.name!r} trains the base weights, and LoRA freezes them; leave lora out, or "
                f"take quantization={frozen_names()}"
            )
        read_policy(self.policy, dict(self.options))  # bad names and options show now
        if self.activations is not None and (self.checkpointing or self.probes):
            other = "checkpointing" if self.checkpointing else f"policy={self.policy!r}, without backward passes"
            raise HybridOptError(
                f"activations={self.activations!r} is not allowed with {other}; leave one of both out", "plan"
            )

    def _check_several(self) -> None:
        """Raise HybridOptError for what is not trained on several GPUs."""
        if self.placement is not None:
            raise HybridOptError(
                f"placement={self.placement.base!r} is not allowed with gpus={self.gpus}: layers that rest elsewhere "
                "are fetched by one process; leave one of both out",
                "plan",
            )
        if self.parallel == "fsdp" and self.scheme is not None and self.scheme.trains:
            raise HybridOptError(
                f"quantization={self.quantization!r} is not allowed with gpus={self.gpus} and parallel='fsdp': "
                "shards of codes that are trained are not planned; take parallel='ddp', or another quantization",
                "plan",
            )

    @property
    def scheme(self) -> Scheme | None:
        """Return the quantization scheme of the base; None without."""
        return None if self.quantization is None else named(self.quantization, "plan")

    @property
    def ready(self) -> Ready:
        """Return the policy itself, made of its name and options."""
        return read_policy(self.policy, dict(self.options))

    @property
    def kept(self) -> Activations | None:
        """Return what trained linear layers keep of their inputs; None: everything."""
        return read_activations(self.activations, "plan")

    @property
    def probes(self) -> bool:
        """Return whether training needs no backward pass, only losses at shifted weights."""
        return all(route.use is None or not route.use.source.backward for route in self.ready.routes)

    @property
    def frees_gradients(self) -> bool:
        """Return whether gradients are used and freed within the backward pass."""
        return release_class(self.release).frees_gradients

    @property
    def reentrant(self) -> bool:
        """Return whether checkpointing is reentrant: some quantized layers free their inputs only so."""
        return self.scheme is not None and self.scheme.reentrant

    @property
    def weights(self) -> tuple:
        """Return the values on which the bytes of weights and of an update depend."""
        return self.lora, self.adapter_dtype, self.quantization, self.dtype, self.device, repr(self.peft_config)

    @property
    def structure(self) -> tuple:
        """Return the values on which forward and backward pass depend; where they are equal, activations are."""
        return *self.weights, self.seq_len, self.batch, self.checkpointing, self.chunk, self.activations

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain data; a policy that is no name is given by the name of its class."""
        name = self.policy if isinstance(self.policy, str) else type(self.policy).__name__
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "peft_config"}
        placed = None if self.placement is None else asdict(self.placement)
        told = {"options": {k: pack(v) for k, v in self.options.items()}, "placement": placed}
        return own | told | {"policy": name, "activations": pack(self.activations)}

    def but(self, **changes: Any) -> "Request":
        """Return a copy with some values changed."""
        return replace(self, **changes)
