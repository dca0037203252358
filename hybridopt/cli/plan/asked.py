"""What `hybridopt plan` can be asked, in groups of options."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.budget import MARGIN, Budget, budget, check_margin
from ...core.part_files import names
from .checks import Beside, beside_asked, check_beside, options_asked, placement_asked, rate_asked

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from ...model.placement.placement import Placement

__all__ = ["AskedMemory", "AskedPlacement", "AskedPolicy", "AskedRanks", "AskedStep", "AskedWeights", "settings_of"]

Policy = Annotated[str | None, typer.Option(help="Of `hybridopt policies`; without it, --gpu searches for one.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="Of the policy, as key=value; may be repeated.")]
Density = Annotated[float | None, typer.Option(help="Short for --option density=...")]
Codec = Annotated[str | None, typer.Option(help="Short for --option codec=...: fp32, bf16, int8.")]
Gap = Annotated[int | None, typer.Option(help="Short for --option update_gap=...")]
Rate = Annotated[float | None, typer.Option(help="Of --policy, right for --lr-batch: what is it for this batch?")]
RateBatch = Annotated[int | None, typer.Option("--lr-batch", help="Sequences of a step for which --lr is right.")]
Lora = Annotated[int | None, typer.Option(help="Rank of LoRA on all linear layers.")]
Quantization = Annotated[str | None, typer.Option(help="Of the base: nf4, fp4, int8, int8-trainable.")]
Dtype = Annotated[str, typer.Option(help="Of weights that are not quantized: bf16, fp16, fp32.")]
AdapterDtype = Annotated[str | None, typer.Option(help="Of adapters: float32 (PEFT's own choice), bfloat16, float16.")]
Release = Annotated[
    str | None, typer.Option(help=f"{', '.join(names('releases'))}: fused frees gradients within backward.")
]
Tokens = Annotated[int | None, typer.Option("--seq-len", help="Of a sequence; 2048, or all the model has room for.")]
Batch = Annotated[int, typer.Option(help="Sequences of a pass.")]
Passes = Annotated[int, typer.Option("--micro-batches", help="Passes of a step.")]
Checkpointing = Annotated[bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Of activations.")]
Chunk = Annotated[int | None, typer.Option(help="Tokens a piece, where hybridopt.chunked_loss is used.")]
Kept = Annotated[str | None, typer.Option(help="Of trained linear layers' inputs: wta-crs, or wta-crs:share=0.2.")]
Device = Annotated[str, typer.Option(help="cuda, or cpu: whose kernels count.")]
Card = Annotated[
    str | None, typer.Option("--gpu", help="A card (4090, 'a100 80', h100), auto for this machine's, or 24GiB.")
]
Margin = Annotated[float, typer.Option(help="Share of the GPU's memory that is kept free.")]
Gpus = Annotated[int, typer.Option(help="GPUs that train together; bytes are those of each.")]
Parallel = Annotated[str, typer.Option(help="How several GPUs do: fsdp, each has a shard (FSDP2), or ddp, replicas.")]
Placed = Annotated[str | None, typer.Option(help="Where layers rest between uses: device, host, disk, auto.")]
Slots = Annotated[int | None, typer.Option(help="Layers that are on the device at a time, of those placed.")]
Resident = Annotated[int | None, typer.Option(help="Layers that stay on the device.")]
HostMemory = Annotated[str | None, typer.Option("--host", help="Memory of the host that weights may take, as 64GiB.")]
Bus = Annotated[str | None, typer.Option(help="To the GPU, as 25GB/s; else as `hybridopt doctor` measured it here.")]
Disk = Annotated[str | None, typer.Option(help="That is read, as 6GB/s; else as `hybridopt doctor` measured it here.")]
Tflops = Annotated[float | None, typer.Option(help="That the GPU reaches in training; else a share of its maker's.")]


@dataclass(frozen=True)
class AskedPolicy:
    """A policy with its options, and a rate that is right for it."""

    policy: Policy = None
    option: Options = None
    density: Density = None
    codec: Codec = None
    update_gap: Gap = None
    lr: Rate = None
    lr_batch: RateBatch = None

    @property
    def options(self) -> dict[str, Any]:
        """Return the policy's options, of whichever form."""
        short = {"density": self.density, "codec": self.codec, "update_gap": self.update_gap}
        return options_asked(self.option or [], short)

    @property
    def rate(self) -> tuple[float, int] | None:
        """Return the rate and the batch for which it is right; None where nothing was said."""
        return rate_asked(self.lr, self.lr_batch, self.policy)


@dataclass(frozen=True)
class AskedWeights:
    """How weights are kept, and when their gradients are used."""

    lora: Lora = None
    quantization: Quantization = None
    dtype: Dtype = "bf16"
    adapter_dtype: AdapterDtype = None
    release: Release = None


@dataclass(frozen=True)
class AskedStep:
    """What goes through the model in a step, and what is kept of it."""

    seq_len: Tokens = None
    batch: Batch = 1
    micro_batches: Passes = 1
    checkpointing: Checkpointing = None
    chunk: Chunk = None
    activations: Kept = None
    device: Device = "cuda"


@dataclass(frozen=True)
class AskedMemory:
    """The memory that a plan may fill."""

    gpu: Card = None
    margin: Margin = MARGIN

    @property
    def room(self) -> Budget | None:
        """Return the budget; None where no GPU was named."""
        check_margin(self.margin)
        return None if self.gpu is None else budget(self.gpu, self.margin, "--gpu")


@dataclass(frozen=True)
class AskedRanks:
    """How many GPUs train together, and how."""

    gpus: Gpus = 1
    parallel: Parallel = "fsdp"


@dataclass(frozen=True)
class AskedPlacement:
    """Where layers rest between their uses, and how fast they come from there."""

    placement: Placed = None
    slots: Slots = None
    resident: Resident = None
    host: HostMemory = None
    bus: Bus = None
    disk: Disk = None
    tflops: Tflops = None

    def rests(self, device: str) -> "Placement | None":
        """Return the placement; None: everything stays on the device, "cuda" or "cpu"."""
        return placement_asked(self.placement, {"slots": self.slots, "resident": self.resident}, device)

    def beside(self, room: Budget | None) -> Beside:
        """Return the machine around a GPU with this memory."""
        return beside_asked(room, self.host, self.bus, self.disk, self.tflops)

    def check_used(self) -> None:
        """Raise HybridOptError for what is said of the machine where no layer rests there."""
        check_beside({"--host": self.host, "--bus": self.bus, "--disk": self.disk})


def settings_of(*groups: "DataclassInstance") -> dict[str, Any]:
    """Return by name what was given of groups whose options are fields of a `Request`."""
    given = {name: value for group in groups for name, value in asdict(group).items()}
    return {name: value for name, value in given.items() if value is not None}
