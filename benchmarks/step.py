"""Measure the optimizer step of every hybridopt policy and of the original packages against torch's fused AdamW.

One process a dtype measures all rows; each row is a file of its own under OUT/step, and a row that is there is not
measured again. OUT/step.md, step.json and step.png are written from all rows that are there.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

import results
import step_hybrid
import step_peers
import step_table
import torch
from rich.console import Console
from step_measure import Bench, Make
from step_shapes import SETS

HERE = Path(__file__).parent
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COMPILE = {"auto": "auto", "true": True, "false": False}
PACKAGES = ("torch", "transformers", "bitsandbytes", "torchao", "lomo-optim", "adam-mini", "came-pytorch")
PACKAGES += ("galore-torch", "apollo-torch")


def measure(options: argparse.Namespace, dtype: str, console: Console) -> None:
    """Measure the rows of one dtype that are asked for and not there yet, until the time is up."""
    end = time.monotonic() + 60 * options.minutes
    settings = settings_of(options, dtype)
    rows = wanted(options, dtype)
    todo = {name: make for name, make in rows.items() if not done(options.out, name, settings)}
    bench = Bench(SETS[options.set], DTYPES[dtype], options.device, options.pairs) if todo else None
    for index, name in enumerate(rows):
        if name in todo and time.monotonic() < end:
            record = outcome(bench, todo[name]) | {"row": name, "index": index, "settings": settings}
            record |= {"parameters": bench.weights.numel, "tensors": len(bench.weights.values)}
            results.save(path_of(options.out, name, settings), record | {"environment": environment(options.device)})
            console.print(f"{dtype} {name}: {brief(record)}", highlight=False, markup=False)


def wanted(options: argparse.Namespace, dtype: str) -> dict[str, Make]:
    """The rows whose names fit --only and not --skip, those of other packages where they are installed."""
    rows = step_hybrid.rows(DTYPES[dtype], COMPILE[options.compile]) | step_peers.rows(SETS[options.set])
    return {n: make for n, make in rows.items() if fits(n, options.only) and not fits(n, options.skip)}


def fits(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split("|"))


def settings_of(options: argparse.Namespace, dtype: str) -> dict:
    """What two rows must share to be compared."""
    threads = torch.get_num_threads()
    shared = {"device": options.device, "set": options.set, "dtype": dtype, "threads": threads}
    return shared | {"pairs": options.pairs, "compile": options.compile}


def path_of(folder: Path, row: str, settings: dict) -> Path:
    """Where the record of a row lies."""
    return folder / "step" / step_table.label(settings) / f"{row}.json"


def done(folder: Path, row: str, settings: dict) -> bool:
    """Is there a record that did not fail? ValueError if it was made with other settings."""
    record = results.load(path_of(folder, row, settings), settings)
    return record is not None and "failed" not in record


def outcome(bench: Bench, make: Make) -> dict:
    """The numbers of one row, or why there are none; the other rows go on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bench.measure(make)
    except Exception as error:  # whatever a package may raise is a result
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def brief(record: dict) -> str:
    if "failed" in record:
        return f"failed, {record['failed']}"
    return (
        f"{record['ratio']:.2f} times fused AdamW, {1000 * record['seconds']:.1f} ms, "
        f"first {record['first_seconds']:.1f} s, {record['state_bytes_per_parameter']:.3f} B/param"
    )


def environment(device: str) -> dict:
    """Return what a measurement depends on: versions of what is installed, processor, threads, GPU."""
    found = {"python": platform.python_version(), "cpu": results.cpu_name(), "threads": torch.get_num_threads()}
    found |= {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {name: version for name in PACKAGES if (version := version_of(name))} | found


def version_of(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads for torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--set", choices=SETS, help="shapes (default: 60m on cpu, 1b on cuda)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="(default: both on cpu, bf16 on cuda)")
    parser.add_argument("--only", default="*", help="patterns of row names, split by |")
    parser.add_argument("--skip", default="", help="patterns of row names to leave out, split by |")
    parser.add_argument("--pairs", type=int, default=15, help="measured steps a row, fewer for slow ones")
    parser.add_argument("--compile", choices=COMPILE, default="auto", help="given to HybridOptimizer, if it takes it")
    parser.add_argument("--minutes", type=float, default=60.0, help="after these, no further row is begun")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of tables")
    parser.add_argument("--table", action="store_true", help="only write table and plot anew")
    parser.add_argument("--measure", action="store_true", help="only measure, write no table")
    parser.add_argument("--list", action="store_true", help="only print the names of the rows")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    options.set = options.set or ("1b" if options.device == "cuda" else "60m")
    options.dtypes = options.dtypes or (["bf16"] if options.device == "cuda" else list(DTYPES))
    return options


def in_processes(options: argparse.Namespace, arguments: list[str]) -> None:
    """Measure one dtype after the other, each in a process of its own and with an equal share of the time."""
    end = time.monotonic() + 60 * options.minutes
    for position, dtype in enumerate(options.dtypes):
        share = (end - time.monotonic()) / 60 / (len(options.dtypes) - position)
        command = [sys.executable, __file__, *arguments, "--dtypes", dtype, "--minutes", str(share), "--measure"]
        subprocess.run(command, stdout=sys.stderr if options.json else None, check=True)


def show(options: argparse.Namespace, console: Console) -> None:
    """Write what is there, and print it."""
    document = step_table.publish(options.out)
    if options.json:
        print(json.dumps(document))
        return
    for table in step_table.rich_tables(options.out):
        console.print(table)
    for row, package in step_peers.missing().items():
        console.print(f"{row}: not measured, {package} is not installed")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 130)
    if options.list:
        console.print("\n".join({name: None for dtype in options.dtypes for name in wanted(options, dtype)}))
    elif options.measure or (len(options.dtypes) == 1 and not options.table):
        measure(options, options.dtypes[0], console)
    elif not options.table:
        in_processes(options, sys.argv[1:] if arguments is None else arguments)
    if not options.list and not options.measure:
        show(options, console)


if __name__ == "__main__":
    main()
