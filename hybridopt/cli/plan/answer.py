"""What `hybridopt plan` answers: the bytes of one way to train, or the ways that fit."""

import gc
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ...core.budget import Budget
from ...core.silence import without_messages
from .checks import Beside

if TYPE_CHECKING:
    from ...planning.subject.model import Subject

__all__ = ["quickly", "show_one", "show_ways", "told_subject", "usual_tokens"]

WANTED = ("lora", "quantization", "release", "checkpointing", "chunk", "activations", "placement")  # of a way


def told_subject(model: str) -> "Subject":
    """Return the model that is planned; stderr is told where its dimensions come from."""
    from rich.console import Console
    from rich.text import Text

    from ...planning.subject.source import subject_of

    found = subject_of(model)
    Console(stderr=True).print(Text(f"{found.name} is planned by {found.source}"), soft_wrap=True)
    return found


def usual_tokens(model: "Subject") -> int:
    """Return the tokens of a sequence that are planned where none were asked for."""
    from ...planning import tokens

    return tokens(model)


def show_one(
    model: "Subject",
    settings: dict[str, Any],
    room: Budget | None,
    beside: Beside,
    rate: tuple[float, int] | None,
    as_json: bool,
) -> bool:
    """Print the estimate of one request, against the memory of a GPU if given; return whether it fits.

    Args:
        model: what is trained.
        settings: of a `Request`.
        room: memory of the GPU.
        beside: the machine around it.
        rate: a learning rate, and the batch for which it is right.
        as_json: print one JSON object in place of tables.
    """
    from rich.console import Console
    from rich.text import Text

    from ...planning import Estimator, Request, table

    estimator = Estimator(model)
    request = estimator.settled(Request(**settings), room, beside.host)
    estimate = estimator.estimate(request)
    lr, why = estimator.rate(request, rate)
    if said := estimator.useless_rank(request):
        Console(stderr=True).print(Text(f"lora: {said}"), soft_wrap=True)
    if as_json:
        told = {"lr": lr, "lr_source": why, "model_source": model.source}
        print(json.dumps(told | estimate.as_dict(room, *beside)))
    else:
        Console().print(table.estimate_table(estimate, room, *beside))
        Console().print(f"lr={lr:g} to start from: {why}", soft_wrap=True, highlight=False, markup=False)
    lacking = estimate.missing_on_host(beside.host)
    return not lacking and (room is None or not estimate.missing(room.usable))


def show_ways(model: "Subject", settings: dict[str, Any], room: Budget, beside: Beside, as_json: bool) -> bool:
    """Print the ways to train that fit into the memory of a GPU; return whether any fits beside the margin.

    Args:
        model: what is trained.
        settings: of a `Request`, as far as they were given.
        room: memory of the GPU.
        beside: the machine around it.
        as_json: print one JSON object in place of a table.
    """
    from rich.console import Console

    from ...planning import table
    from ...planning.ways.search import search

    asked = {name: settings[name] for name in WANTED if name in settings}
    size = {name: value for name, value in settings.items() if name not in asked}
    choices = search(model, room, asked=asked, host=beside.host, watch=partial(table.watched, lines=True), **size)
    if as_json:
        told = {"gpu_bytes": room.total, "kept_free_bytes": room.kept, "card": room.card}
        told["model_source"] = model.source
        print(json.dumps(told | {"choices": [choice.as_dict(room, *beside) for choice in choices]}))
    else:
        Console().print(table.choices_table(choices, room, *beside), crop=False)  # lines to paste may be longer
    return choices[0].fits


@contextmanager
def quickly() -> Iterator[None]:
    """Silence libraries' warnings and log messages within, and collect no garbage.

    Nearly all objects that are made within are imported modules: searching them for garbage takes a fifth of the time.
    """
    collects = gc.isenabled()
    with warnings.catch_warnings(), without_messages():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()  # both together make all objects old ones: young ones would be searched at once
            gc.unfreeze()
            if collects:
                gc.enable()
