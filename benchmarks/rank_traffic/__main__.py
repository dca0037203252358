"""What two ranks send each other in a step of each policy under FSDP2, and the time beside torch's own AdamW."""

import argparse
import json
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from ..shared.command_line import parser
from ..shared.files import write
from ..shared.records import Records
from .measure import POLICIES, measured

RANKS = 2


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    return parser("rank_traffic", __doc__).parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    records = Records(parse(arguments).out / "rank_traffic.jsonl", ("policy",))
    there = {record["policy"] for record in records.all()}
    with tempfile.TemporaryDirectory() as folder:
        left = [policy for policy in POLICIES if policy not in there]
        if left:
            multiprocessing.spawn(_rank, (folder, left), nprocs=RANKS)
            for record in json.loads((Path(folder) / "found.json").read_text()):
                records.put(record)
    write(records.path.with_suffix(".md"), report(records.all()))


def report(records: list[dict]) -> str:
    """Return the table of all policies."""
    lines = [
        "# What ranks send each other",
        "",
        "`python -m benchmarks.rank_traffic`: a Llama of 4 layers and width 256 in float32, FSDP2 on 2 CPU processes",
        "(gloo). Collectives of a step, and bytes that rank 0 hands in: those of the update, and FSDP2's own.",
        "Time: of whole steps of 2 x 64 tokens a rank, over those of torch.optim.AdamW on the same shards; the median",
        "of 5 interleaved pairs, which is noisy: the counts are not.",
        "",
        "| policy | update: collectives | MiB | FSDP2: collectives | MiB | time over torch's AdamW |",
        "|---|---|---|---|---|---|",
    ]
    for r in records:
        ours, theirs = r["ours_bytes"] / 2**20, r["theirs_bytes"] / 2**20
        lines.append(f"| {r['policy']} | {r['ours']} | {ours:.2f} | {r['theirs']} | {theirs:.2f} | {r['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


def _rank(rank: int, folder: str, policies: list[str]) -> None:
    torch.set_num_threads(1)
    told = {"init_method": f"file://{folder}/meet", "timeout": timedelta(minutes=5)}
    distributed.init_process_group("gloo", rank=rank, world_size=RANKS, **told)
    found = [measured(policy) for policy in policies]
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
