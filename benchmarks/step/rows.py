"""The rows of the step table: which are measured, and their records."""

import argparse
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from rich.console import Console

from ..shared.environment import environment
from ..shared.lost_device import end_if_lost, release
from ..shared.records import Records
from . import hybrid, peers
from .limit import limited
from .measure import Bench, Make
from .memory import lacking, numel_of, row_bytes, shared_bytes
from .sets import SETS, patterns

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE: dict[str, str | bool] = {"auto": "auto", "true": True, "false": False}
PACKAGES: tuple[str, ...] = ("torch", "transformers", "bitsandbytes", "torchao", "lomo-optim", "adam-mini")
PACKAGES += ("came-pytorch", "galore-torch", "apollo-torch", "torch-optimi", "deepspeed")


def records_at(folder: Path) -> Records:
    """Return the records that lie in a folder: a row on a device, with a set of shapes and a dtype, each."""
    return Records(folder / "step.jsonl", ("device", "set", "dtype", "row"))


def measure(options: argparse.Namespace, dtype: str, screen: Console) -> None:
    """Measure the rows of one dtype that are asked for and not there yet, until the time is up.

    A row that cannot be measured has a record, too, with the reason.

    Args:
        options: of the command line, `set` one set.
        dtype: of DTYPES.
        screen: where a line on each is printed.
    """
    end, records = time.monotonic() + 60 * options.minutes, records_at(options.out)
    model, settings = SETS[options.set], settings_of(options, dtype)
    todo = {n: make for n, make in wanted(options, dtype).items() if not done(records, n, settings, options.go_on)}
    order, absent = list(wanted(options, dtype)), peers.missing()
    short = lacking(shared_bytes(model, DTYPES[dtype]), options.device)
    able = not short and any(name not in absent for name in todo)
    bench = Bench(model, DTYPES[dtype], options.device, options.pairs) if able else None
    late = []
    for name, make in todo.items():
        if time.monotonic() >= end:
            late.append(name)
            continue
        reason = absent.get(name) or short or lacking(row_bytes(model), options.device)
        reason = reason or peers.uncompiled(name, options.compile_seconds)
        record = outcome(bench, make, options.row_seconds) if bench and not reason else {"failed": reason}
        record |= {"row": name, "index": order.index(name), "settings": settings}
        record |= {"parameters": numel_of(model), "tensors": len(model.shapes)}
        records.put(record | {"environment": environment(PACKAGES, options.device)})
        screen.print(f"{options.set} {dtype} {name}: {brief(record)}", highlight=False, markup=False)
        end_if_lost(record)
    for why, names in {
        "there already": [n for n in order if n not in todo],
        "not begun, the time is up": late,
    }.items():
        if names:
            screen.print(f"{options.set} {dtype}, {why}: {', '.join(names)}", highlight=False, markup=False)


def wanted(options: argparse.Namespace, dtype: str) -> dict[str, Make]:
    """Return the rows whose names fit --only, by default those that decide a set, and not --skip.

    They come in the order of the patterns, so that the first ones are there when time is up.
    """
    rows = hybrid.rows(DTYPES[dtype], COMPILE[options.compile]) | peers.rows(SETS[options.set])
    names = {n: None for pattern in patterns(options.only, options.set).split("|") for n in rows if fits(n, pattern)}
    return {name: rows[name] for name in names if not fits(name, options.skip)}


def fitting_none(only: str) -> list[str]:
    """Return the patterns that no row of any dtype fits, such as a package's name where rows have more than that."""
    known = hybrid.rows(torch.bfloat16, False) | peers.PEERS  # bfloat16 has all rows, and some of its own
    return [pattern for pattern in only.split("|") if not any(fits(name, pattern) for name in known)]


def fits(name: str, patterns: str) -> bool:
    """Tell whether a name fits one of the patterns, which are split by |."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split("|"))


def settings_of(options: argparse.Namespace, dtype: str) -> dict:
    """Return what two rows must share to be compared."""
    threads = torch.get_num_threads()
    shared = {"device": options.device, "set": options.set, "dtype": dtype, "threads": threads}
    return shared | {"pairs": options.pairs, "compile": options.compile}


def done(records: Records, row: str, settings: dict, failed: bool = False) -> bool:
    """Tell whether there is a record that did not fail.

    Args:
        records: of all rows.
        row: its name.
        settings: what it must have been made with.
        failed: does one do that failed, too?

    Raises:
        ValueError: it was made with others.
    """
    identity = {key: settings[key] for key in ("device", "set", "dtype")}
    record = records.find(settings, row=row, **identity)
    return record is not None and (failed or "failed" not in record)


def outcome(bench: Bench, make: Make, most: float) -> dict:
    """Return the numbers of one row, or why there are none; the other rows go on.

    Args:
        bench: that all rows share.
        make: the row's optimizer.
        most: seconds of all its steps and compilation.
    """
    try:
        with limited(most), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bench.measure(make)
    except Exception as error:  # whatever a package may raise is a result
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        release(bench.device)  # an optimizer that refers to itself would keep its state beside the next row's


def brief(record: dict) -> str:
    """Return what is said of a row that was measured."""
    if "failed" in record:
        return f"not measured, {record['failed']}"
    return (
        f"{record['ratio']:.2f} times fused AdamW, {1000 * record['seconds']:.2f} ms, "
        f"first {record['first_seconds']:.1f} s, {record['state_bytes_per_parameter']:.3f} B/param"
    )
