"""Draft a run.yaml for a model and its data: what the plan chooses, and what else would fit."""

from dataclasses import replace
from typing import Any

from ....core.budget import Budget
from ....core.registry import make
from ....core.sizes import gib
from ....planning import Choice
from ...config.run import AUTO, Method, Run
from ...config.writing import flow, to_yaml
from ...data.reading import read
from ...method.choosing import Chosen, Shape, choose
from ..loading import config_of
from ..quiet import quietly
from .choosing import shape_for, with_head
from .lengths import positions_of, with_lengths

__all__ = ["draft"]

OTHERS = 3  # further ways that are told


def draft(run: Run) -> tuple[str, list[str]]:
    """Return the text of a run.yaml with the method filled in, and lines for people; no weights are read.

    Every example is read and checked. Sequences are planned as long as `data.max_length` lets them be.

    Raises:
        HybridOptError: model or data cannot be read, no task follows from the data, or nothing fits.
    """
    with quietly():
        settings, examples = config_of(run.model), read(run.data, run.train.seed)
        name = examples.format.task_for("--set task=grpo") if run.task == AUTO else run.task
        task = make("tasks", name, **run.task_options)
        config = with_head(settings, task, examples.labels)
        run = with_lengths(run, task, positions_of(config))
        shape = shape_for(run, task, int(run.data.max_length))
        chosen = choose(run, config, shape, others=OTHERS)
    data = replace(chosen.run.data, format=examples.format.name)
    written = to_yaml(replace(chosen.run, task=name, data=data), remarks=_remarks(chosen, shape))
    return written, [*examples.told, *chosen.told]


def _remarks(chosen: Chosen, shape: Shape) -> dict[str, list[str]]:
    """Return what is written above the method: what it was chosen for, and which other ways fit."""
    peak, room = chosen.estimate.peak_bytes, chosen.room
    passes = f"{shape.batch} x {shape.seq_len} tokens"
    lines = [f"A step with {passes} takes {gib(peak)} of {_usable(room)};"]
    lines += ["training plans it anew, for the sequences that the data has."]
    lines += ["Other ways that fit, to be put in place of the method:"] if chosen.others else []
    lines += [line for choice in chosen.others for line in _way(choice)]
    return {"method": lines}


def _usable(room: Budget) -> str:
    return f"{gib(room.total)}" + (f" ({room.card})" if room.card else "")


def _way(choice: Choice) -> list[str]:
    request = choice.request
    method: dict[str, Any] = {"policy": request.policy, "options": dict(request.options), "lora": request.lora}
    method |= {"quantization": request.quantization}
    method |= {"release": request.release} if request.release != Method.release else {}
    shown = {key: value for key, value in method.items() if value}
    again = " and checkpointing" if request.checkpointing else ""
    return [
        f"- {choice.way.title}{again}: {gib(choice.estimate.peak_bytes)}; given up: {choice.way.why}",
        f"  method: {flow(shown, 'method')}",
    ]
