"""What a run writes about itself: run.yaml with what it was made with, and plan.json with what was planned."""

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ...core.files import plain_json
from .loading import device_here
from .prepare import Prepared
from .resuming import data_notes

__all__ = ["begin", "end", "versions"]

LIBRARIES = ("hybridopt", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


def begin(prepared: Prepared) -> None:
    """Write run.yaml and plan.json of a run that begins; those of one that is gone on with stay."""
    if prepared.resume:
        return
    from ..config.writing import to_yaml

    notes = {"versions": versions(), "data": data_notes(prepared.examples.files), "device": device_here()}
    prepared.place.clear()
    _replace(prepared.place.run, to_yaml(prepared.run, notes=notes))
    plain_json.write(prepared.place.plan, _plan(prepared) | {"measured": None})


def end(prepared: Prepared, measured: Mapping[str, Any], tensors: list[dict[str, Any]]) -> None:
    """Write into plan.json what was measured, which says that the run is finished.

    Args:
        prepared: the run.
        measured: bytes by what they are for, and seconds.
        tensors: name, role, tag and bytes of every parameter.
    """
    plain_json.write(prepared.place.plan, _plan(prepared) | {"measured": dict(measured), "tensors": tensors})


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a run uses."""
    found = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version()} | {name: text for name, text in found.items() if text}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _plan(prepared: Prepared) -> dict[str, Any]:
    planned = prepared.chosen.estimate.as_dict(prepared.chosen.room)
    return {"planned": planned, "steps": prepared.rehearsal.steps, "device": device_here()}


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
