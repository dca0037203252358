"""The rows of the step table: which are measured, and their records."""

import argparse
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from rich.console import Console

from ..shared.environment import environment
from ..shared.llama import SETS
from ..shared.records import Records
from . import hybrid, peers
from .measure import Bench, Make

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COMPILE = {"auto": "auto", "true": True, "false": False}
PACKAGES = ("torch", "transformers", "bitsandbytes", "torchao", "lomo-optim", "adam-mini", "came-pytorch")
PACKAGES += ("galore-torch", "apollo-torch", "torch-optimi", "deepspeed")


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder: a row on a device, with a set of shapes and a dtype, each."""
    return Records(folder / "step.jsonl", ("device", "set", "dtype", "row"))


def measure(options: argparse.Namespace, dtype: str, screen: Console) -> None:
    """Measure the rows of one dtype that are asked for and not there yet, until the time is up.

    Args:
        options: of the command line.
        dtype: of DTYPES.
        screen: where a line on each is printed.
    """
    end, records = time.monotonic() + 60 * options.minutes, records_at(options.out)
    settings = settings_of(options, dtype)
    rows = wanted(options, dtype)
    todo = {name: make for name, make in rows.items() if not done(records, name, settings)}
    bench = Bench(SETS[options.set], DTYPES[dtype], options.device, options.pairs) if todo else None
    for index, name in enumerate(rows):
        if name in todo and time.monotonic() < end:
            record = outcome(bench, todo[name]) | {"row": name, "index": index, "settings": settings}
            record |= {"parameters": bench.weights.numel, "tensors": len(bench.weights.values)}
            records.put(record | {"environment": environment(PACKAGES, options.device)})
            screen.print(f"{dtype} {name}: {brief(record)}", highlight=False, markup=False)


def wanted(options: argparse.Namespace, dtype: str) -> dict[str, Make]:
    """Return the rows whose names fit --only and not --skip, those of other packages where they are installed.

    They come in the order of the patterns of --only, so that the first ones are there when time is up.
    """
    rows = hybrid.rows(DTYPES[dtype], COMPILE[options.compile]) | peers.rows(SETS[options.set])
    names = {n: None for pattern in options.only.split("|") for n in rows if fits(n, pattern)}
    return {name: rows[name] for name in names if not fits(name, options.skip)}


def fits(name: str, patterns: str) -> bool:
    """Tell whether a name fits one of the patterns, which are split by |."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split("|"))


def settings_of(options: argparse.Namespace, dtype: str) -> dict:
    """Return what two rows must share to be compared."""
    threads = torch.get_num_threads()
    shared = {"device": options.device, "set": options.set, "dtype": dtype, "threads": threads}
    return shared | {"pairs": options.pairs, "compile": options.compile}


def done(records: Records, row: str, settings: dict) -> bool:
    """Tell whether there is a record that did not fail.

    Args:
        records: of all rows.
        row: its name.
        settings: what it must have been made with.

    Raises:
        ValueError: it was made with others.
    """
    identity = {key: settings[key] for key in ("device", "set", "dtype")}
    record = records.find(settings, row=row, **identity)
    return record is not None and "failed" not in record


def outcome(bench: Bench, make: Make) -> dict:
    """Return the numbers of one row, or why there are none; the other rows go on."""
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
    """Return what is said of a row that was measured."""
    if "failed" in record:
        return f"failed, {record['failed']}"
    return (
        f"{record['ratio']:.2f} times fused AdamW, {1000 * record['seconds']:.1f} ms, "
        f"first {record['first_seconds']:.1f} s, {record['state_bytes_per_parameter']:.3f} B/param"
    )
