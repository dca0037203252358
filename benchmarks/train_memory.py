"""Peak memory of a whole training step at the shape of Llama-3-8B, for each method.

Random bfloat16 weights made on the device, one sequence, gradient checkpointing (not reentrant). The peak is that of
the steps after the first, forward, backward and update: on CUDA torch.cuda.max_memory_allocated; on CPU, where only
sizes made for a test run, weights and state plus what torch's allocator hands out on top within a step.
"""

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import results
import torch
from rich.console import Console
from rich.table import Table
from step import environment
from step_shapes import SETS
from tensor_bytes import Peak, held
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt
from hybridopt import Policy
from hybridopt.parts.splits.random import Random
from hybridopt.policy.routes import read_policy

HERE = Path(__file__).parent
FILE = "train_memory.json"
STEPS = 3  # the first makes the state, and may compile
LR = 1e-6


@dataclass(frozen=True)
class Method:
    """A policy with options, and when gradients are applied; without a policy, torch's own AdamW."""

    label: str
    policy: str | None = None
    options: dict = field(default_factory=dict)
    release: str = "accumulate"

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model that was just made or unwrapped."""
        if self.policy is None:
            return torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
        policy = read_policy(self.policy, self.options)
        hybridopt.wrap(model, policy=random_basis(policy) if self.policy == "galore" else policy)
        return model.hybrid.optimizer(lr=LR, release=self.release)


METHODS = {
    "torch-adamw": Method("torch AdamW fused, bf16 state"),
    "adamw": Method("AdamW", "adamw"),
    "adamw-fused": Method("AdamW, fused release", "adamw", release="fused"),
    "adamw-int8": Method("8-bit AdamW", "adamw", {"codec": "int8"}),
    "adam-mini": Method("Adam-mini", "adam_mini"),
    "frugal": Method("FRUGAL ρ=0.25, columns", "frugal", {"density": 0.25}),
    "frugal-fused": Method("FRUGAL ρ=0.25, columns, fused release", "frugal", {"density": 0.25}, "fused"),
    "frugal-0": Method("FRUGAL ρ=0", "frugal", {"density": 0.0}),
    "frugal-0-fused": Method("FRUGAL ρ=0, fused release", "frugal", {"density": 0.0}, "fused"),
    "adalomo": Method("AdaLomo", "adalomo"),
    "adalomo-fused": Method("AdaLomo, fused release", "adalomo", release="fused"),
    "galore": Method("GaLore ρ=0.25 (a random basis: state and steps as with SVD)", "galore"),
}


def random_basis(policy) -> Policy:
    """GaLore's routes with a basis that costs no singular value decompositions; its bytes are the same."""

    def use(treatment):
        split = treatment and treatment.split
        same = type(split).__name__ != "Svd"
        return treatment if same else replace(treatment, split=Random(split.density, split.update_gap, split.side))

    return Policy(tuple(replace(route, use=use(route.use)) for route in policy.routes))


def build(size: str, device: str) -> nn.Module:
    """The model with random weights, made where they stay, that keeps only the input of each layer for backward."""
    model = bare(size, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its new name is not in every transformers that will do
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def bare(size: str, device: str) -> nn.Module:
    """The model with random weights, made where they stay."""
    llama = SETS[size]
    config = LlamaConfig(
        hidden_size=llama.hidden,
        intermediate_size=llama.inner,
        num_hidden_layers=llama.layers,
        num_attention_heads=llama.heads,
        num_key_value_heads=llama.kv_heads,
        vocab_size=llama.vocab,
        tie_word_embeddings=llama.tied,
        use_cache=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.train()


def measure(model: nn.Module, method: Method, sequence: int) -> dict:
    """The bytes and seconds of one method; it leaves the model without optimizer, gradients and state."""
    optimizer = method.optimizer(model)
    device = next(model.parameters()).device
    tokens = torch.randint(model.config.vocab_size, (1, sequence), device=device)
    try:
        steps = [one_step(model, optimizer, tokens) for _ in range(STEPS)]
        return {
            "peak_bytes": max(step["peak_bytes"] for step in steps[1:]),
            "first_peak_bytes": steps[0]["peak_bytes"],
            "seconds": min(step["seconds"] for step in steps[1:]),
            "first_seconds": steps[0]["seconds"],
            "loss": steps[-1]["loss"],
            "weight_bytes": held(list(model.parameters())),
            "state_bytes": held(optimizer, model.parameters()),
        }
    finally:
        optimizer.zero_grad(set_to_none=True)


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> dict:
    """Forward, backward and update, with the most memory that was taken at any time in it."""
    on_cuda = tokens.is_cuda
    before = torch.cuda.memory_allocated() if on_cuda else held([list(model.parameters()), optimizer])
    with Peak(tokens.device.type) as peak:
        start = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()  # waits for the device
        passed = time.perf_counter() - start
    return {"peak_bytes": before + peak.extra, "seconds": passed, "loss": loss}


def outcome(model: nn.Module, method: Method, sequence: int) -> dict:
    """What `measure` says, or why it could not; the other methods go on."""
    try:
        return measure(model, method, sequence)
    except Exception as error:  # too little memory above all, and whatever else: it is the result of this row
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        torch.compiler.reset()
        if hasattr(model, "hybrid"):
            model.hybrid.unwrap()
        gc.collect()
        if next(model.parameters()).is_cuda:
            torch.cuda.empty_cache()


def run(options: argparse.Namespace, tell: Callable[[str], object]) -> dict:
    """Measure every method asked for; the document on disk grows with each."""
    end = time.monotonic() + 60 * options.minutes
    model = build(options.set, options.device)
    settings = {"set": options.set, "device": options.device, "sequence": options.sequence, "batch": 1}
    document = {"settings": settings, "environment": environment(options.device), "rows": []}
    for name in options.only:
        row = outcome(model, METHODS[name], options.sequence) if time.monotonic() < end else {"failed": "no time left"}
        document["rows"].append({"method": name, "label": METHODS[name].label} | row)
        results.save(options.out / FILE, document)
        tell(f"{name}: {row.get('failed') or results.human(row['peak_bytes'])}")
    return document


def table(document: dict) -> Table:
    """What was measured, for the terminal."""
    settings = document["settings"]
    found = Table("method", title=f"peak of a training step, Llama {settings['set']}, {settings['sequence']} tokens")
    for column in ("peak", "first step's", "weights", "state", "s/step"):
        found.add_column(column, justify="right")
    for row in document["rows"]:
        found.add_row(row["label"], *cells(row))
    return found


def cells(row: dict) -> list[str]:
    if "failed" in row:
        return [f"failed: {row['failed'][:60]}"]
    sizes = [results.human(row[f"{key}_bytes"]) for key in ("peak", "first_peak", "weight", "state")]
    return [*sizes, f"{row['seconds']:.2f}"]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", choices=SETS, help="shapes (default: 8b on cuda, tiny on cpu)")
    parser.add_argument("--sequence", type=int, help="tokens of the one sequence (default: 2048 on cuda, 32 on cpu)")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods to measure")
    parser.add_argument("--minutes", type=float, default=10.0, help="after these, no further method is begun")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of a table")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of train_memory.json")
    options = parser.parse_args(arguments)
    on_cuda = options.device == "cuda"
    options.set = options.set or ("8b" if on_cuda else "tiny")
    options.sequence = options.sequence or (2048 if on_cuda else 32)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 130)
    path = options.out / FILE
    document = json.loads(path.read_text()) if options.table else run(options, console.print)
    print(json.dumps(document)) if options.json else console.print(table(document))


if __name__ == "__main__":
    main()
