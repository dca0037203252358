"""The distribution of the planner's errors as Markdown."""

import statistics

from ..shared.markdown import page, table

NOTE = """
`python -m benchmarks.plan_grid`: models of 6 layers, width 256, 2 x 64 tokens, bfloat16, on a CPU. Error:
planned / measured - 1. Op by op: every storage that an operation hands out; allocator: also buffers inside
of kernels.
"""
RANKS_NOTE = """
`python -m benchmarks.plan_grid --ranks`: a Llama of 6 layers, 2 x 64 tokens a process, on CPU processes
(gloo) with FSDP2 or DDP; of width 396 rows of vocabulary and MLP do not come out even. Measured: the most
that torch's allocator handed out in each process, with what was there before the step. Error: planned /
measured - 1.
"""
LARGEST = 10  # differences that are shown


def report(records: list[dict]) -> str:
    """Return the distribution of errors, and the largest."""
    rows = []
    for kind in sorted({record["cell"].split()[0] for record in records}):
        some = [record for record in records if record["cell"].startswith(f"{kind} ")]
        for key, label in (("error_ops", "op by op"), ("error_allocated", "by the allocator")):
            rows.append([f"{kind} ({len(some)})", label, *_distribution([row[key] for row in some])])
    worst = sorted(records, key=lambda record: -abs(record["error_ops"]))[:LARGEST]
    differences = [[r["cell"], _mib(r["planned"]), _mib(r["ops"]), f"{r['error_ops']:+.2f} %"] for r in worst]
    return page(
        "Planned against measured peaks",
        NOTE,
        table(["cells", "counted", "median", "95 % within", "largest", "within 3 %"], rows),
        "Largest differences, op by op:\n",
        table(["cell", "planned", "measured", "error"], differences),
    )


def report_ranks(records: list[dict]) -> str:
    """Return what each of several processes was planned to take, and took."""
    rows = []
    for row in records:
        measured = ", ".join(f"{x / 2**20:.2f}" for x in row["allocated"])
        errors = ", ".join(f"{x:+.2f}" for x in row["errors"])
        rows.append([row["cell"], _mib(row["planned"]), f"{measured} MiB", f"{errors} %"])
    found = table(["cell", "planned", "measured, by rank", "error"], rows)
    return page("Planned against measured peaks of several processes", RANKS_NOTE, found)


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"


def _distribution(errors: list[float]) -> list[str]:
    sizes = sorted(map(abs, errors))
    most = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
    largest = max(errors, key=abs)
    within = sum(size <= 3 for size in sizes)
    return [f"{statistics.median(errors):+.2f} %", f"{most:.2f} %", f"{largest:+.2f} %", f"{within} of {len(sizes)}"]
