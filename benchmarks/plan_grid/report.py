"""The distribution of the planner's errors as Markdown."""

import statistics


def report(records: list[dict]) -> str:
    """Return the distribution of errors, and the largest."""
    lines = [
        "# Planned against measured peaks",
        "",
        "`python -m benchmarks.plan_grid`: models of 6 layers, width 256, 2 x 64 tokens, bfloat16, on a CPU. Error:",
        "planned / measured - 1. Op by op: every storage that an operation hands out; allocator: also buffers inside",
        "of kernels.",
        "",
        "| cells | counted | median | 95 % within | largest | within 3 % |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted({record["cell"].split()[0] for record in records}):
        rows = [record for record in records if record["cell"].startswith(f"{kind} ")]
        for key, label in (("error_ops", "op by op"), ("error_allocated", "by the allocator")):
            lines.append(f"| {kind} ({len(rows)}) | {label} | {_distribution([row[key] for row in rows])} |")
    worst = sorted(records, key=lambda record: -abs(record["error_ops"]))[:10]
    lines += ["", "Largest differences, op by op:", "", "| cell | planned | measured | error |", "|---|---|---|---|"]
    for row in worst:
        sizes = f"{row['planned'] / 2**20:.2f} MiB | {row['ops'] / 2**20:.2f} MiB"
        lines.append(f"| {row['cell']} | {sizes} | {row['error_ops']:+.2f} % |")
    return "\n".join(lines) + "\n"


def report_ranks(records: list[dict]) -> str:
    """Return what each of several processes was planned to take, and took."""
    lines = [
        "# Planned against measured peaks of several processes",
        "",
        "`python -m benchmarks.plan_grid --ranks`: a Llama of 6 layers, 2 x 64 tokens a process, on CPU processes",
        "(gloo) with FSDP2 or DDP; of width 396 rows of vocabulary and MLP do not come out even. Measured: the most",
        "that torch's allocator handed out in each process, with what was there before the step. Error: planned /",
        "measured - 1.",
        "",
        "| cell | planned | measured, by rank | error |",
        "|---|---|---|---|",
    ]
    for row in records:
        measured = ", ".join(f"{x / 2**20:.2f}" for x in row["allocated"])
        errors = ", ".join(f"{x:+.2f}" for x in row["errors"])
        lines.append(f"| {row['cell']} | {row['planned'] / 2**20:.2f} MiB | {measured} MiB | {errors} % |")
    return "\n".join(lines) + "\n"


def _distribution(errors: list[float]) -> str:
    sizes = sorted(map(abs, errors))
    most = sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))]
    largest = max(errors, key=abs)
    within = sum(size <= 3 for size in sizes)
    return f"{statistics.median(errors):+.2f} % | {most:.2f} % | {largest:+.2f} % | {within} of {len(sizes)}"
