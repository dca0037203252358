"""The command `hybridopt doctor`; what takes time to import is imported inside."""

import json
import logging
import os
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ...core.errors import HybridOptError
from ...core.host import note_speeds
from ...core.silence import without_messages

if TYPE_CHECKING:
    from .finding import Finding
    from .machine import Machine

__all__ = ["doctor"]

LONG = ", which waits for torch.compile: the first time up to some minutes"

Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1: what is examined.")]
Folder = Annotated[Path, typer.Option(help="On the disk that is measured; a file is written there, and removed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quick = Annotated[bool, typer.Option("--quick", help="Do not wait for torch.compile.")]


def doctor(device: Device = "auto", folder: Folder = Path("."), json_: Json = False, quick: Quick = False) -> None:
    """Look at versions, device, kernels and bandwidth, and test that results are right on this machine.

    Every line that is not ok says what to install, change or report. Takes some seconds, and where nothing has been
    compiled yet up to some minutes, in which torch.compile makes its kernels. Exits with status 1 if something failed.
    """
    machine = _machine(device, folder, not quick)
    start = perf_counter()
    findings = _examined(machine)
    _note(findings)
    failed = any(one.state == "fail" for one in findings)
    if json_:
        lines = [one.as_dict() for one in findings]
        print(json.dumps({"device": str(machine.device), "ok": not failed, "findings": lines}))
    else:
        from . import show

        console = Console()
        console.print(show.findings_table(findings))
        console.print(show.verdict(findings, perf_counter() - start))
    if failed:
        raise typer.Exit(1)


def _machine(device: str, folder: Path, compile: bool) -> "Machine":
    """Return what is examined; HybridOptError for a device that is not there, and for folders that take no file."""
    from ...core.devices import device_here, device_named
    from .machine import Machine

    name = device_here() if device == "auto" else device
    found = device_named(name)
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"no file can be written there ({error.strerror or error}); name another folder"
        raise HybridOptError(f"--folder {folder}: {text}") from error
    return Machine(found, folder.absolute(), compile)


def _note(findings: list["Finding"]) -> None:
    """Keep the speeds of bus and disk, for plans of what is placed."""
    found = {name: speed for one in findings for name, speed in one.speeds.items()}
    if found:
        note_speeds(found)


def _examined(machine: "Machine") -> list["Finding"]:
    """Run the checks, and say on stderr which of them is running."""
    from .examine import Check, examine

    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is looked up on the net
    with without_messages(logging.ERROR), Console(stderr=True).status("") as status:

        def watch(check: Check) -> None:
            waits = check.compiles and machine.compile
            status.update(f"{check.kind}: {check.name}{LONG * waits}")

        return examine(machine, watch)
