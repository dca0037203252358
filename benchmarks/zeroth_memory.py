"""Peak memory and time of a step by zeroth-order methods and by SGD within the backward pass, at real shapes.

Random bfloat16 weights made on the device. MeZO sees 16 sequences of full length, Addax 6 of those in its probe and 4
short ones (a quarter of the length) in its backward pass, as in its paper (K0 = 6, K1 = 4); IP-SGD sees 4 of full
length, with and without gradient checkpointing, and the 4 short ones. "replay" trains a smaller model for 200 steps on
the device, rebuilds it on the CPU from its log, and compares every bit.
"""

import argparse
import copy
import gc
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import results
import torch
from rich.console import Console
from rich.table import Table
from step import environment
from step_shapes import SETS
from tensor_bytes import Peak, held
from torch import nn
from train_memory import bare

import hybridopt

HERE = Path(__file__).parent
FILE = "zeroth_memory.json"
STEPS, REPLAYED, LR = 3, 200, 1e-7


@dataclass(frozen=True)
class Method:
    """A policy; how many sequences are probed, and how many, of which part of the length, go backward."""

    label: str
    policy: str
    probed: int = 0
    backward: int = 0
    share: float = 1.0
    checkpointing: bool = False
    options: dict = field(default_factory=dict)


METHODS = {
    "forward": Method("forward passes alone", "mezo", 16),
    "mezo": Method("MeZO, 16 sequences", "mezo", 16),
    "lezo": Method("LeZO, a quarter of the layers", "lezo", 16),
    "subzero": Method("SubZero, rank 24", "subzero", 16),
    "addax": Method("Addax, 6 probed, 4 short backward", "addax", 6, 4, 0.25),
    "ip-sgd-short": Method("IP-SGD, 4 short", "ip_sgd", 0, 4, 0.25),
    "ip-sgd-checkpointing": Method("IP-SGD, 4, gradient checkpointing", "ip_sgd", 0, 4, 1.0, True),
    "ip-sgd": Method("IP-SGD, 4", "ip_sgd", 0, 4),
}


def one_step(model: nn.Module, optimizer, method: Method, tokens: torch.Tensor) -> dict:
    """One step, with the most memory that was taken at any time in it."""
    before = torch.cuda.memory_allocated() if tokens.is_cuda else held([list(model.parameters()), optimizer])
    short = tokens[: method.backward, : max(2, int(tokens.shape[1] * method.share))]
    with Peak(tokens.device.type) as peak:
        start = time.perf_counter()
        if method.probed:
            rows = tokens[: method.probed]
            optimizer.probe(lambda: loss_of(model, rows))
        if method.backward:
            loss_of(model, short).backward()
        optimizer.step()
        if tokens.is_cuda:
            torch.cuda.synchronize()
        passed = time.perf_counter() - start
    return {"peak_bytes": before + peak.extra, "seconds": passed}


def forward_alone(model: nn.Module, method: Method, tokens: torch.Tensor) -> dict:
    """What the two losses cost without any shift."""
    before = torch.cuda.memory_allocated() if tokens.is_cuda else held([list(model.parameters())])
    with Peak(tokens.device.type) as peak, torch.no_grad():
        start = time.perf_counter()
        for _ in range(2):
            loss_of(model, tokens[: method.probed]).item()
        passed = time.perf_counter() - start
    return {"peak_bytes": before + peak.extra, "seconds": passed}


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens, labels=tokens).loss


def measure(model: nn.Module, name: str, tokens: torch.Tensor) -> dict:
    """Bytes and seconds of one method, the best of the steps after the first."""
    method = METHODS[name]
    if name == "forward":
        steps = [forward_alone(model, method, tokens) for _ in range(STEPS)]
    else:
        set_checkpointing(model, method.checkpointing)
        hybridopt.wrap(model, policy=method.policy, **method.options)
        optimizer = model.hybrid.optimizer(lr=LR, release="fused")
        steps = [one_step(model, optimizer, method, tokens) for _ in range(STEPS)]
    best = min(step["seconds"] for step in steps[1:])
    return {
        "peak_bytes": max(s["peak_bytes"] for s in steps[1:]),
        "seconds": best,
        "first_seconds": steps[0]["seconds"],
    }


def set_checkpointing(model: nn.Module, on: bool) -> None:
    if on:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()


def replay(device: str, steps: int) -> dict:
    """Train on the device, rebuild on the CPU, compare."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        start = bare("60m" if device == "cuda" else "tiny", "cpu").to(dtype)
        base, model = copy.deepcopy(start), start.to(device)
        hybridopt.wrap(model, policy="mezo")
        optimizer = model.hybrid.optimizer(lr=1e-6, nonfinite="skip")
        tokens = torch.randint(model.config.vocab_size, (2, 32), device=device)
        for _ in range(steps):
            optimizer.step(partial(loss_of, model, tokens))
        with TemporaryDirectory() as folder:
            model.hybrid.save_pretrained(Path(folder) / "out")
            again = hybridopt.from_pretrained(base, Path(folder) / "out")
        found[str(dtype).removeprefix("torch.")] = digest(model) == digest(again)
    return {"steps": steps, "equal_sha256": found}


def digest(model: nn.Module) -> str:
    """SHA-256 of all weights."""
    sha = hashlib.sha256()
    for _, p in sorted(model.named_parameters()):
        sha.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def outcome(model: nn.Module, name: str, tokens: torch.Tensor) -> dict:
    """What `measure` says, or why it could not; the other methods go on."""
    try:
        return measure(model, name, tokens)
    except Exception as error:  # too little memory above all: it is the result of this row
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        for p in model.parameters():
            p.grad = None
        if hasattr(model, "hybrid"):
            model.hybrid.unwrap()
        gc.collect()
        if tokens.is_cuda:
            torch.cuda.empty_cache()


def run(options: argparse.Namespace, tell: Callable[[str], object]) -> dict:
    """Measure every method asked for; the document on disk grows with each."""
    end = time.monotonic() + 60 * options.minutes
    settings = {"set": options.set, "device": options.device, "sequence": options.sequence}
    document = {"settings": settings, "environment": environment(options.device), "rows": []}
    document["replay"] = replay(options.device, options.replayed) if options.replayed else None
    results.save(options.out / FILE, document)
    model = bare(options.set, options.device)
    tokens = torch.randint(model.config.vocab_size, (16, options.sequence), device=options.device)
    for name in options.only:
        row = outcome(model, name, tokens) if time.monotonic() < end else {"failed": "no time left"}
        document["rows"].append({"method": name, "label": METHODS[name].label} | row)
        results.save(options.out / FILE, document)
        tell(f"{name}: {row.get('failed') or results.human(row['peak_bytes'])}")
    return document


def table(document: dict) -> Table:
    """What was measured, for the terminal."""
    settings, check = document["settings"], document["replay"]
    title = f"a step, Llama {settings['set']}, {settings['sequence']} tokens a sequence"
    caption = (
        "" if check is None else f"after {check['steps']} steps replayed on the CPU, equal: {check['equal_sha256']}"
    )
    found = Table("method", title=title, caption=caption)
    for column in ("peak", "s/step", "first step, s"):
        found.add_column(column, justify="right")
    for row in document["rows"]:
        known = "failed" not in row
        cells = (
            [results.human(row["peak_bytes"]), f"{row['seconds']:.2f}", f"{row['first_seconds']:.2f}"] if known else []
        )
        found.add_row(row["label"], *(cells or [f"failed: {row['failed'][:60]}"]))
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", choices=SETS, help="shapes (default: 13b on cuda, tiny on cpu)")
    parser.add_argument("--sequence", type=int, help="tokens of a sequence (default: 512 on cuda, 32 on cpu)")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods to measure")
    parser.add_argument("--replayed", type=int, default=REPLAYED, help="steps of the replayed run; 0: none")
    parser.add_argument("--minutes", type=float, default=10.0, help="after these, no further method is begun")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of zeroth_memory.json")
    options = parser.parse_args(arguments)
    on_cuda = options.device == "cuda"
    options.set = options.set or ("13b" if on_cuda else "tiny")
    options.sequence = options.sequence or (512 if on_cuda else 32)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    path = options.out / FILE
    document = json.loads(path.read_text()) if options.table else run(options, console.print)
    console.print(table(document))


if __name__ == "__main__":
    main()
