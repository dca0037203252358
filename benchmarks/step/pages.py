"""The tables of steps in the README, beside other packages, and in docs/benchmarks.md, beside what was aimed at."""

from collections.abc import Sequence

from ..shared.markdown import table as markdown
from ..shared.readme_marks import Block
from .goals import goals
from .measure import share_of_bandwidth
from .table import REASON, milliseconds

METHODS = {  # the row of hybridopt, and the same method by others
    "AdamW": ("adamw", "torch.adamw-fused", "torch.adamw-foreach", "torch.adamw-loop", "optimi.*", "deepspeed.*"),
    "AdamW, 8-bit state": ("adamw-int8", "torchao.adamw8bit", "bitsandbytes.adamw8bit"),
    "signSGD": ("signsgd",),
    "SGD (LOMO)": ("lomo", "torch.sgd-fused", "lomo-optim.lomo"),
    "Lion": ("lion",),
    "FRUGAL ρ=0": ("frugal-0",),
    "FRUGAL ρ=0.25, columns": ("frugal",),
    "Adam-mini": ("adam_mini", "adam-mini"),
    "AdaLomo": ("adalomo", "lomo-optim.adalomo"),
    "Adafactor": ("adafactor", "torch.adafactor-foreach", "torch.adafactor-loop", "transformers.adafactor"),
    "CAME": ("came", "came-pytorch"),
    "GaLore ρ=0.25": ("galore", "galore-torch"),
    "APOLLO": ("apollo", "apollo-torch"),
    "APOLLO-Mini": ("apollo_mini", "apollo-torch-mini"),
    "Muon": ("muon", "torch.muon"),
    "BAdam": ("badam",),
}
ALONE = ("signSGD", "FRUGAL ρ=0", "FRUGAL ρ=0.25, columns")  # in the README although no other package has them
SHOWN = {  # the groups on the docs page, by set and dtype
    ("60m", "fp32"): "58 M parameters, fp32",
    ("60m", "bf16"): "58 M parameters, bf16, weights rounded at random",
    ("500m", "fp32"): "498 M parameters, fp32",
    ("adapters", "fp32"): "Adapters: 300 LoRA matrices of 4,096 to 65,536 elements, fp32",
    ("experts", "fp32"): "Experts: 8 stacks of 8 matrices, 68 M parameters, fp32",
    ("python", "fp32"): "75 tensors so small that a step is Python and calls, fp32: at most 1 ms was aimed at",
}
COMMAND = "python -m benchmarks.step --write"
MEASURES = ["share of bandwidth", "state, B/param", "first step, s"]


def peers_table(records: list[dict]) -> str:
    """Return Markdown for the README: hybridopt beside other packages, fp32 on the CPU, a line a method."""
    there = group(records, "60m", "fp32")
    lines = []
    for method, (own, *others) in METHODS.items():
        if f"hybridopt.{own}" in there:
            checked, unchecked, *rest = numbers(there[f"hybridopt.{own}"])
            known = beside(there, others)
            if known or method in ALONE:
                lines.append([method, checked, unchecked, known or "–", *rest])
    return markdown(["method", "times fused AdamW", "without the check", "others", *MEASURES], lines)


def goals_table(records: list[dict]) -> str:
    """Return Markdown for the docs: what hybridopt reached beside what was aimed at, a table a group."""
    parts = []
    for (size, dtype), heading in SHOWN.items():
        there = group(records, size, dtype)
        lines = [against(method, there, *rows) for method, rows in METHODS.items() if f"hybridopt.{rows[0]}" in there]
        if lines:
            header = ["method", "ms", "times fused AdamW", "aimed at", "without the check", "aimed at", "others"]
            parts.append(f"{heading}:\n\n{markdown([*header, *MEASURES], lines)}")
    return "\n".join(parts)


def against(method: str, there: dict[str, dict], own: str, *others: str) -> list[str]:
    """Return one line of a table of goals.

    Args:
        method: how it is called.
        there: records of the group, by row.
        own: the row of hybridopt.
        *others: rows of other packages.
    """
    record = there[f"hybridopt.{own}"]
    ratio, unchecked, *rest = numbers(record)
    checked_goal, goal = (str(value or "–") for value in goals(record))
    took = "–" if "failed" in record else milliseconds(record["seconds"])
    return [method, took, ratio, checked_goal, unchecked, goal, beside(there, others) or "–", *rest]


def beside(there: dict[str, dict], others: Sequence[str]) -> str:
    """Return the rows of other packages, and their ratios; why one has none is in the table of results."""
    known = [(n, there[n]) for n in expanded(others, there) if n != "torch.adamw-fused"]
    return ", ".join(f"{n} {'not measured' if 'failed' in r else format(r['ratio'], '.1f')}" for n, r in known)


def numbers(record: dict) -> list[str]:
    """Return ratios with and without the check, share of bandwidth, bytes and first step; or why there are none."""
    if "failed" in record:
        return [f"not measured: {record['failed'][:REASON]}", *["–"] * 4]
    ignore = record["variants"].get("ignore")
    return [
        f"{record['ratio']:.2f}",
        f"{ignore['ratio']:.2f}" if ignore else "–",
        f"{share_of_bandwidth(record):.2f}",
        f"{record['state_bytes_per_parameter']:.2f}",
        f"{record['first_seconds']:.1f}",
    ]


def group(records: list[dict], size: str, dtype: str) -> dict[str, dict]:
    """Return the records of one set and dtype on a CPU, by row."""
    asked = {"device": "cpu", "set": size, "dtype": dtype}
    return {r["row"]: r for r in records if asked.items() <= r["settings"].items()}


def expanded(others, there: dict[str, dict]) -> list[str]:
    """Return the rows that are there of these names, of which some end with .* for all rows of a package."""
    return [n for other in others for n in there if n == other or (other.endswith(".*") and n.startswith(other[:-1]))]


BLOCKS = (Block("step_peers", COMMAND, peers_table), Block("step", COMMAND, goals_table))
