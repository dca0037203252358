"""What an error of CUDA leaves of a process: nothing works on its device, so rows still to do need another one."""

import argparse
import gc
from contextlib import suppress

from .records import Records

__all__ = ["LOST", "add_go_on", "end_if_lost", "is_lost", "release", "there"]

LOST = 75  # status of a process that ends as it has lost its device: begun again with --go-on, it does what is left
SAID = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]")  # by torch, by inductor and by triton


def is_lost(said: object) -> bool:
    """Return whether what an error has said is of a device that this process cannot use any more.

    Running out of memory is no such error: torch says "CUDA out of memory".
    """
    return any(words in str(said) for words in SAID)


def end_if_lost(row: dict) -> None:
    """End this process with status `LOST` if a row, which has to be kept already, failed as the device was lost."""
    if is_lost(row.get("failed", "")):
        raise SystemExit(LOST)


def release(device: str) -> None:
    """Give back the memory that nothing holds; on a device that is lost that raises, and says nothing new."""
    import torch

    gc.collect()
    if device == "cuda":
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def add_go_on(command: argparse.ArgumentParser) -> None:
    """Add --go-on to a command that ends with status `LOST`."""
    command.add_argument("--go-on", action="store_true", help="keep what is there, failed rows too; only do the rest")


def there(records: Records, field: str, go_on: bool) -> set[str]:
    """Return by a field which records are there; forget all of them first unless the command goes on."""
    if not go_on:
        records.clear()
    return {record[field] for record in records.all()}
