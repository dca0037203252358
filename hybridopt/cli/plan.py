"""The command `hybridopt plan`; what takes time to import is imported inside."""

import gc
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.budget import MARGIN, Budget, budget, check_margin
from ..core.part_files import names
from ..core.silence import without_messages
from .plan_checks import (
    Beside,
    beside_asked,
    check_activations,
    check_asked,
    check_beside,
    options_asked,
    placement_asked,
    rate_asked,
)

if TYPE_CHECKING:
    from ..planning.subject.model import Subject

__all__ = ["plan"]

EXAMPLES = """Examples:

hybridopt plan llama-3.1-8b --gpu 4090

hybridopt plan Qwen/Qwen3-32B --gpu "a100 80" --batch 4 --seq-len 4096

hybridopt plan ./my-model --gpu auto --lora 16 --quantization nf4

hybridopt plan llama-3-8b --policy frugal --density 0.1 --release fused --checkpointing --gpu 24GiB

hybridopt plan llama-3-8b --gpus 2 --gpu 24GiB
"""

Model = Annotated[
    str, typer.Argument(help="A known architecture, a name on the hub (org/name), a config.json, or its folder.")
]
Policy = Annotated[str | None, typer.Option(help="Of `hybridopt policies`; without it, --gpu searches for one.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="Of the policy, as key=value; may be repeated.")]
Density = Annotated[float | None, typer.Option(help="Short for --option density=...")]
Codec = Annotated[str | None, typer.Option(help="Short for --option codec=...: fp32, bf16, int8.")]
Gap = Annotated[int | None, typer.Option(help="Short for --option update_gap=...")]
Lora = Annotated[int | None, typer.Option(help="Rank of LoRA on all linear layers.")]
Quantization = Annotated[str | None, typer.Option(help="Of the base: nf4, fp4, int8, int8-trainable.")]
Release = Annotated[
    str | None, typer.Option(help=f"{', '.join(names('releases'))}: fused frees gradients within backward.")
]
Tokens = Annotated[int | None, typer.Option("--seq-len", help="Of a sequence; 2048, or all the model has room for.")]
Batch = Annotated[int, typer.Option(help="Sequences of a pass.")]
Passes = Annotated[int, typer.Option("--micro-batches", help="Passes of a step.")]
Checkpointing = Annotated[bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Of activations.")]
Chunk = Annotated[int | None, typer.Option(help="Tokens a piece, where hybridopt.chunked_loss is used.")]
Kept = Annotated[str | None, typer.Option(help="Of trained linear layers' inputs: wta-crs, or wta-crs:share=0.2.")]
Dtype = Annotated[str, typer.Option(help="Of weights that are not quantized: bf16, fp16, fp32.")]
AdapterDtype = Annotated[str | None, typer.Option(help="Of adapters: float32 (PEFT's own choice), bfloat16, float16.")]
Placed = Annotated[str | None, typer.Option(help="Where layers rest between uses: device, host, disk, auto.")]
Slots = Annotated[int | None, typer.Option(help="Layers that are on the device at a time, of those placed.")]
Resident = Annotated[int | None, typer.Option(help="Layers that stay on the device.")]
HostMemory = Annotated[str | None, typer.Option("--host", help="Memory of the host that weights may take, as 64GiB.")]
Bus = Annotated[str | None, typer.Option(help="To the GPU, as 25GB/s; else as `hybridopt doctor` measured it here.")]
Disk = Annotated[str | None, typer.Option(help="That is read, as 6GB/s; else as `hybridopt doctor` measured it here.")]
Tflops = Annotated[float | None, typer.Option(help="That the GPU reaches in training; else a share of its maker's.")]
Gpus = Annotated[int, typer.Option(help="GPUs that train together; bytes are those of each.")]
Parallel = Annotated[str, typer.Option(help="How several GPUs do: fsdp, each has a shard (FSDP2), or ddp, replicas.")]
Gpu = Annotated[str | None, typer.Option(help="A card (4090, 'a100 80', h100), auto for this machine's, or 24GiB.")]
Margin = Annotated[float, typer.Option(help="Share of the GPU's memory that is kept free.")]
Rate = Annotated[float | None, typer.Option(help="Of --policy, right for --lr-batch: what is it for this batch?")]
RateBatch = Annotated[int | None, typer.Option("--lr-batch", help="Sequences of a step for which --lr is right.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Device = Annotated[str, typer.Option(help="cuda, or cpu: whose kernels count.")]


def plan(
    model: Model,
    policy: Policy = None,
    option: Options = None,
    density: Density = None,
    codec: Codec = None,
    update_gap: Gap = None,
    lora: Lora = None,
    quantization: Quantization = None,
    release: Release = None,
    seq_len: Tokens = None,
    batch: Batch = 1,
    micro_batches: Passes = 1,
    checkpointing: Checkpointing = None,
    chunk: Chunk = None,
    activations: Kept = None,
    dtype: Dtype = "bf16",
    adapter_dtype: AdapterDtype = None,
    gpu: Gpu = None,
    gpus: Gpus = 1,
    parallel: Parallel = "fsdp",
    margin: Margin = MARGIN,
    placement: Placed = None,
    slots: Slots = None,
    resident: Resident = None,
    host: HostMemory = None,
    bus: Bus = None,
    disk: Disk = None,
    tflops: Tflops = None,
    lr: Rate = None,
    lr_batch: RateBatch = None,
    json_: Json = False,
    device: Device = "cuda",
) -> None:
    """What a training step takes, before anything is loaded: no weights, no GPU, some seconds.

    With --gpu and no --policy: the ways to train that fit, closest to full AdamW first, and the best of them last, as
    a whole program. Exits with status 1 where nothing fits beside the margin.
    """  # noqa: D401 (it is the help of the command)
    check_margin(margin)
    room = None if gpu is None else budget(gpu, margin, "--gpu")
    size = {"batch": batch, "micro_batches": micro_batches, "dtype": dtype, "device": device}
    size |= {"gpus": gpus, "parallel": parallel}
    size |= {} if adapter_dtype is None else {"adapter_dtype": adapter_dtype}
    asked: dict[str, Any] = {"lora": lora, "quantization": quantization, "release": release}
    asked |= {"checkpointing": checkpointing, "chunk": chunk, "activations": activations}
    asked = {name: value for name, value in asked.items() if value is not None}
    rests = placement_asked(placement, {"slots": slots, "resident": resident}, device)
    beside = beside_asked(room, host, bus, disk, tflops)
    options = options_asked(option or [], {"density": density, "codec": codec, "update_gap": update_gap})
    searches = policy is None and room is not None and not options
    check_activations(activations, policy, searches)
    if rests is None and not searches:
        check_beside({"--host": host, "--bus": bus, "--disk": disk})
    check_asked(model, policy, options, {"seq_len": seq_len, **size}, asked)
    rate = rate_asked(lr, lr_batch, policy)
    with _quickly():
        subject = _subject(model)
        size["seq_len"] = _tokens(subject) if seq_len is None else seq_len
        if searches and room is not None:
            asked |= {} if rests is None else {"placement": rests}
            fits = _search(subject, room, beside, size, asked, json_)
        else:
            settings = {"policy": policy or "frugal", "options": options, "placement": rests, **size, **asked}
            fits = _one(subject, room, beside, settings, rate, json_)
    if not fits:
        raise typer.Exit(1)


def _subject(model: str) -> "Subject":
    """Return the model that is planned; stderr is told where its dimensions come from."""
    from rich.console import Console
    from rich.text import Text

    from ..planning.subject.source import subject_of

    found = subject_of(model)
    Console(stderr=True).print(Text(f"{found.name} is planned by {found.source}"), soft_wrap=True)
    return found


def _tokens(model: "Subject") -> int:
    from ..planning import tokens

    return tokens(model)


def _one(
    model: "Subject",
    room: Budget | None,
    beside: Beside,
    settings: dict[str, Any],
    rate: tuple[float, int] | None,
    as_json: bool,
) -> bool:
    """Print the estimate of one request, against the memory of a GPU if given; return whether it fits."""
    from rich.console import Console

    from ..planning import Estimator, Request, table

    estimator = Estimator(model)
    request = estimator.settled(Request(**settings), room, beside.host)
    estimate = estimator.estimate(request)
    lr, why = estimator.rate(request, rate)
    if as_json:
        told = {"lr": lr, "lr_source": why, "model_source": model.source}
        print(json.dumps(told | estimate.as_dict(room, *beside)))
    else:
        Console().print(table.estimate_table(estimate, room, *beside))
        Console().print(f"lr={lr:g} to start from: {why}", soft_wrap=True, highlight=False, markup=False)
    lacking = estimate.missing_on_host(beside.host)
    return not lacking and (room is None or not estimate.missing(room.usable))


def _search(
    model: "Subject", room: Budget, beside: Beside, size: dict[str, Any], asked: dict[str, Any], as_json: bool
) -> bool:
    """Print the ways to train that fit into the memory of a GPU; return whether any fits beside the margin."""
    from rich.console import Console

    from ..planning import table
    from ..planning.ways.search import search

    choices = search(model, room, asked=asked, host=beside.host, watch=partial(table.watched, lines=True), **size)
    if as_json:
        told = {"gpu_bytes": room.total, "kept_free_bytes": room.kept, "card": room.card}
        told["model_source"] = model.source
        print(json.dumps(told | {"choices": [choice.as_dict(room, *beside) for choice in choices]}))
    else:
        Console().print(table.choices_table(choices, room, *beside), crop=False)  # lines to paste may be longer
    return choices[0].fits


@contextmanager
def _quickly() -> Iterator[None]:
    """Silence libraries' warnings and log messages within, and collect no garbage.

    Nearly all objects that are made within are imported modules: searching them for garbage takes a fifth of the time.
    """
    collects = gc.isenabled()
    with warnings.catch_warnings(), without_messages():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()  # both together make all objects old ones: young ones would be searched at once
            gc.unfreeze()
            if collects:
                gc.enable()
