"""What two ranks send each other in a step of each policy under FSDP2, and the time beside torch's own AdamW."""

import argparse
import json
import tempfile
from pathlib import Path

from torch import multiprocessing

from ..shared.command_line import parser
from ..shared.files import write
from ..shared.markdown import page, table
from ..shared.records import Records
from .measure import POLICIES, RANKS, on_rank

NOTE = """
`python -m benchmarks.rank_traffic`: a Llama of 4 layers and width 256 in float32, FSDP2 on 2 CPU processes
(gloo). Collectives of an update between ranks, and bytes that rank 0 hands in for them; the check of finite
gradients, one small reduction, and FSDP2's own gathers and sums are not counted.
Time: of whole steps of 2 x 64 tokens a rank, over those of torch.optim.AdamW on the same shards; the median
of 5 interleaved pairs, which is noisy: the counts are not.
"""


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
            multiprocessing.spawn(on_rank, (folder, left), nprocs=RANKS)
            for record in json.loads((Path(folder) / "found.json").read_text()):
                records.put(record)
    write(records.path.with_suffix(".md"), report(records.all()))


def report(records: list[dict]) -> str:
    """Return the table of all policies."""
    rows = [[r["policy"], str(r["ours"]), f"{r['ours_bytes'] / 2**20:.2f}", f"{r['ratio']:.2f}"] for r in records]
    found = table(["policy", "collectives", "MiB", "time over torch's AdamW"], rows)
    return page("What ranks send each other", NOTE, found)


if __name__ == "__main__":
    main()
