"""What a run writes about itself: run.yaml with what it was made with, and plan.json with what was planned."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.devices import device_here
from ...core.files import plain_json
from ..config.writing import to_yaml
from .fingerprints import check_marks, marks
from .prepare import Prepared
from .resuming import data_notes
from .versions import versions

__all__ = ["begin", "end"]


def begin(prepared: Prepared, folder: Path) -> None:
    """Write run.yaml and plan.json of a run that begins; those of one that is gone on with stay.

    Args:
        prepared: the run.
        folder: of its model.

    Raises:
        HybridOptError: a run is gone on with, and its model or template is another one.
    """
    found = marks(folder, prepared.rehearsal.job.tokenizer)
    if prepared.resume:
        check_marks(prepared.place.before[1].get("model") or {}, found, prepared.run.model)
        return
    notes: dict[str, Any] = {"versions": versions(), "data": data_notes(prepared.examples.files), "model": found}
    notes |= {"device": device_here(), "processes": prepared.ranks.world.size}
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


def _plan(prepared: Prepared) -> dict[str, Any]:
    planned = prepared.chosen.estimate.as_dict(prepared.chosen.room)
    return {"planned": planned, "steps": prepared.rehearsal.steps, "device": device_here()}


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
