"""Time what adding noise to a large parameter costs, against adding a tensor that is already there.

Every call is timed between two calls of p.add_(z); the table holds medians. OUT/noise.json and noise.md are written,
and the table is printed last.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import results
import torch
from step_measure import seconds
from torch import Tensor

from hybridopt.core.numerics.directions import KINDS, Direction, combine_

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
EPS = 1e-3
TARGET = 2.0  # times p.add_(z): of compiled Rademacher noise
HEADER = ["call", "dtype", "threads", "ns per element", "times p.add_(z)", "p.add_(z), ns per element"]
NOTE = f"""
One call over one parameter of {{millions:.0f}}M elements, far more than any cache holds, in place. "Times p.add_(z)"
is the median of its time over the mean of both neighbours, where z is a tensor of the parameter's dtype; "ns per
element" is the median by itself. normal_ + add_: MeZO's way, z drawn anew into memory that is kept (MeZO itself
allocates it every time). decay: with weight decay, in float64. Goal: compiled Rademacher noise in at most {TARGET:g}
times p.add_(z).
"""


def calls(p: Tensor, z: Tensor) -> dict[str, Callable[[], object]]:
    """What is measured, by name; every one adds noise to `p`."""
    generator = torch.Generator(p.device).manual_seed(0)
    found = {"normal_ + add_": lambda: p.add_(z.normal_(generator=generator), alpha=EPS)}
    for kind in KINDS:
        for compiled in (False, True):
            name = f"{kind}, {'compiled' if compiled else 'eager'}"
            found[name] = lambda z=Direction(1, 0, 0, kind), c=compiled: combine_(p, p, [(EPS, z)], compile=c)
    sign = Direction(1, 0)
    return found | {"rademacher, decay, compiled": lambda: combine_(p, p, [(EPS, sign)], decay=0.999, compile=True)}


def measure(call: Callable[[], object], add: Callable[[], object], rounds: int, device: str) -> dict:
    """Seconds and ratios of `rounds` calls, each between two of `add`; the first call, which compiles, is left out."""
    call()
    yard, times = [seconds(add, device)], []
    for _ in range(rounds):
        times.append(seconds(call, device))
        yard.append(seconds(add, device))
    ratios = [2 * one / (before + after) for one, before, after in zip(times, yard, yard[1:], strict=False)]
    return {"seconds": times, "add_seconds": yard, "ratio": median(ratios)}


def rows(options: argparse.Namespace) -> list[dict]:
    """One record for every call, dtype and number of threads."""
    found = []
    for dtype in options.dtypes:
        p, z = (torch.randn(options.elements, device=options.device).to(DTYPES[dtype]) for _ in range(2))
        for threads in options.threads:
            torch.set_num_threads(threads)
            for name, call in calls(p, z).items():
                record = measure(call, lambda p=p, z=z: p.add_(z), options.rounds, options.device)
                found.append({"call": name, "dtype": dtype, "threads": threads, **record})
    return found


def cells(record: dict, elements: int) -> list[str]:
    """One line of the table."""
    own, add = (f"{1e9 * median(record[key]) / elements:.3f}" for key in ("seconds", "add_seconds"))
    return [record["call"], record["dtype"], str(record["threads"]), own, f"{record['ratio']:.2f}", add]


def publish(options: argparse.Namespace, records: list[dict]) -> str:
    """Write noise.json and noise.md; return the table."""
    settings = {"device": options.device, "elements": options.elements, "rounds": options.rounds}
    results.save(path(options, "json"), {"settings": settings, "environment": environment(options), "rows": records})
    table = results.table(HEADER, [cells(record, options.elements) for record in records])
    measured = ", ".join(f"{key} {value}" for key, value in environment(options).items() if key != "threads")
    note = NOTE.format(millions=options.elements / 1e6)
    title = f"# The cost of noise ({options.device})"
    results.write(path(options, "md"), f"{title}\n{note}\n{table}\nMeasured with {measured}.\n")
    return table


def path(options: argparse.Namespace, ending: str) -> Path:
    """Results of a CPU and of a GPU stand side by side."""
    return options.out / f"noise{'' if options.device == 'cpu' else '_' + options.device}.{ending}"


def environment(options: argparse.Namespace) -> dict:
    """What the numbers depend on."""
    found = results.environment()
    return found if options.device == "cpu" else found | {"gpu": torch.cuda.get_device_name()}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="threads for torch (default: 1 2 on cpu, 1 on cuda)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--elements", type=int, default=1 << 26, help="of the parameter")
    parser.add_argument("--rounds", type=int, default=9, help="measured calls a row")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the table")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    options.threads = options.threads or ([1, 2] if options.device == "cpu" else [1])
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    table = publish(options, rows(options))
    print(json.dumps(results.load(path(options, "json"), {}), indent=1) if options.json else table)


if __name__ == "__main__":
    main()
