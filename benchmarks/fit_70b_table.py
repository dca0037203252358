"""The README's table of results/fit_70b.json: what 70B takes, each row measured or simulated.

python benchmarks/fit_70b_table.py --write
"""

import argparse
import json
from pathlib import Path

import readme

FILE = Path(__file__).parent / "results" / "fit_70b.json"
GIB = 2**30
PARTS = ("weights", "quantization", "gradients", "state", "activations", "temporaries")


def table(document: dict) -> str:
    """Markdown: a row for each scenario; peaks as an allocator counts them, without what CUDA takes for itself."""
    lines = ["| Llama-3-70B | tokens | peak, GiB | weights and constants | state | the rest | which is |"]
    lines.append("|---|--:|--:|--:|--:|--:|---|")
    return "\n".join([*lines, *(_row(row) for row in document["rows"].values())]) + "\n"


def _row(row: dict) -> str:
    plan, real = row["predicted"], row.get("measured", {})
    kept, state = plan["weights_bytes"] + plan["quantization_bytes"], plan["state_bytes"]
    kept -= sum(plan[f"{name}_bytes"] for name in PARTS) - plan["peak_bytes"]  # the table in the host's memory
    rest = plan["peak_bytes"] - kept - state
    peak, said = (real["peak_bytes"], "measured") if "peak_bytes" in real else (plan["peak_bytes"], "simulated")
    sizes = " | ".join(f"{size / GIB:.1f}" for size in (peak, kept, state, rest))
    return f"| {row['label']} | {plan['sequence']} | {sizes} | {said} |"


BLOCK = readme.Block("fit_70b", "python benchmarks/fit_70b_table.py --write", table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the README")
    document = json.loads(FILE.read_text())
    if parser.parse_args(arguments).write:
        BLOCK.write(document)
    print(table(document))


if __name__ == "__main__":
    main()
