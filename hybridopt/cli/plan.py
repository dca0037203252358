"""The command `hybridopt plan`; what takes time to import is imported inside."""

import gc
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from ..core.errors import HybridOptError
from ..core.registry import names
from ..optimizer.releases import release_class

__all__ = ["plan"]


def _releases():
    """Name the releases, last those that free gradients within the backward pass: "accumulate, or fused"."""
    frees = {name: release_class(name).frees_gradients for name in names("releases")}
    return ", or ".join(", ".join(name for name in frees if frees[name] == freeing) for freeing in (False, True))


Model = Annotated[str, typer.Argument(help="A known architecture, a config.json, or the folder of a saved model.")]
Policy = Annotated[str | None, typer.Option(help="Of `hybridopt policies`; without it, --gpu searches for one.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="Of the policy, as key=value; may be repeated.")]
Density = Annotated[float | None, typer.Option(help="Short for --option density=...")]
Codec = Annotated[str | None, typer.Option(help="Short for --option codec=...: fp32, bf16, int8.")]
Gap = Annotated[int | None, typer.Option(help="Short for --option update_gap=...")]
Lora = Annotated[int | None, typer.Option(help="Rank of LoRA on all linear layers.")]
Quantization = Annotated[str | None, typer.Option(help="Of the base: nf4, fp4, int8, int8-trainable.")]
Release = Annotated[str | None, typer.Option(help=f"{_releases()}: gradients are freed within backward.")]
Tokens = Annotated[int | None, typer.Option("--seq-len", help="Of a sequence; 2048, or all the model has room for.")]
Batch = Annotated[int, typer.Option(help="Sequences of a pass.")]
Passes = Annotated[int, typer.Option("--micro-batches", help="Passes of a step.")]
Checkpointing = Annotated[bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Of activations.")]
Chunk = Annotated[int | None, typer.Option(help="Tokens a piece, where hybridopt.chunked_loss is used.")]
Dtype = Annotated[str, typer.Option(help="Of weights that are not quantized: bf16, fp16, fp32.")]
AdapterDtype = Annotated[str | None, typer.Option(help="Of adapters: float32 (PEFT's own choice), bfloat16, float16.")]
Gpu = Annotated[str | None, typer.Option(help="Its memory, with a unit: 24GiB, 80GB.")]
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
    dtype: Dtype = "bf16",
    adapter_dtype: AdapterDtype = None,
    gpu: Gpu = None,
    json_: Json = False,
    device: Device = "cuda",
) -> None:
    """What a training step takes, before anything is loaded: no download, no GPU, some seconds.

    With --gpu and no --policy: the ways to train that fit, closest to full AdamW first.
    """  # noqa: D401 (it is the help of the command)
    from ..core.sizes import parse_size

    memory = None if gpu is None else parse_size(gpu, "--gpu")
    size = {"batch": batch, "micro_batches": micro_batches, "dtype": dtype, "device": device}
    size |= {} if adapter_dtype is None else {"adapter_dtype": adapter_dtype}
    asked = {"lora": lora, "quantization": quantization, "release": release}
    asked |= {"checkpointing": checkpointing, "chunk": chunk}
    asked = {name: value for name, value in asked.items() if value is not None}
    options = _options(option or [], {"density": density, "codec": codec, "update_gap": update_gap})
    with _quickly():
        size["seq_len"] = _tokens(model) if seq_len is None else seq_len
        if policy is None and memory is not None and not options:
            _search(model, memory, size, asked, json_)
        else:
            _one(model, memory, {"policy": policy or "frugal", "options": options, **size, **asked}, json_)


def _tokens(model: str) -> int:
    from ..planning import tokens

    return tokens(model)


def _one(model: str, memory: int | None, settings: dict[str, Any], as_json: bool) -> None:
    """Print the estimate of one request, against `memory` bytes of a GPU if given."""
    from ..planning import Request, plan, table

    estimate = plan(model, Request(**settings))
    if as_json:
        print(json.dumps(estimate.as_dict(memory)))
    else:
        Console().print(table.estimate_table(estimate, memory))


def _search(model: str, memory: int, size: dict[str, Any], asked: dict[str, Any], as_json: bool) -> None:
    """Print the ways to train that fit into `memory` bytes."""
    from ..planning import table
    from ..planning.ways.search import search

    choices = search(model, memory, asked=asked, watch=table.watched, **size)
    if as_json:
        print(json.dumps({"gpu_bytes": memory, "choices": [choice.as_dict(memory) for choice in choices]}))
    else:
        Console().print(table.choices_table(choices, memory), crop=False)  # lines to paste may be longer


def _options(pairs: list[str], short: dict[str, Any]) -> dict[str, Any]:
    """Return the policy's options: those with a short form that were given, then those of key=value texts."""
    found = {name: value for name, value in short.items() if value is not None}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise HybridOptError(f"--option {pair!r} is not allowed; write key=value, such as density=0.25")
        found[name.replace("-", "_")] = _value(value)
    return found


def _value(text: str) -> Any:
    """Read a number, a list, a truth value or None; anything else is a word and stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


@contextmanager
def _quickly() -> Iterator[None]:
    """Silence libraries' warnings and log messages within, and collect no garbage.

    Nearly all objects that are made within are imported modules: searching them for garbage takes a fifth of the time.
    """
    collects, logged = gc.isenabled(), logging.root.manager.disable
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        gc.disable()
        try:
            yield
        finally:
            logging.disable(logged)
            if collects:
                gc.enable()
