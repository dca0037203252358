"""The command `hybridopt plan`; what takes time to import is imported inside."""

from typing import Annotated

import typer

from ..grouped import grouped
from .answer import quickly, show_one, show_ways, told_subject, usual_tokens
from .asked import AskedMemory, AskedPlacement, AskedPolicy, AskedRanks, AskedStep, AskedWeights, settings_of
from .checks import check_activations, check_asked

__all__ = ["EXAMPLES", "plan"]

EXAMPLES = """Examples:

hybridopt plan llama-3.1-8b --gpu 4090

hybridopt plan Qwen/Qwen3-32B --gpu "a100 80" --batch 4 --seq-len 4096

hybridopt plan ./my-model --gpu auto --lora 16 --quantization nf4

hybridopt plan llama-3-8b --policy frugal --density 0.1 --release fused --checkpointing --gpu 24GiB

hybridopt plan llama-3-8b --gpus 2 --gpu 24GiB
"""

Model = Annotated[
    str, typer.Argument(help="A known architecture, a name on the hub (org/name), a config.json, or its folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@grouped
def plan(
    model: Model,
    policy: AskedPolicy,
    weights: AskedWeights,
    step: AskedStep,
    memory: AskedMemory,
    ranks: AskedRanks,
    placement: AskedPlacement,
    json_: Json = False,
) -> None:
    """What a training step takes, before anything is loaded: no weights, no GPU, some seconds.

    With --gpu and no --policy: the ways to train that fit, closest to full AdamW first, and the best of them last, as
    a whole program. Exits with status 1 where nothing fits beside the margin.
    """  # noqa: D401 (it is the help of the command)
    room, options = memory.room, policy.options
    settings = settings_of(weights, step, ranks)
    rests, beside = placement.rests(step.device), placement.beside(room)
    searches = policy.policy is None and room is not None and not options
    check_activations(step.activations, policy.policy, searches)
    if rests is None and not searches:
        placement.check_used()
    check_asked(model, policy.policy, options, settings)
    rate = policy.rate
    settings |= {} if rests is None else {"placement": rests}
    with quickly():
        subject = told_subject(model)
        settings.setdefault("seq_len", usual_tokens(subject))
        if searches and room is not None:
            fits = show_ways(subject, settings, room, beside, json_)
        else:
            settings |= {"policy": policy.policy or "frugal", "options": options}
            fits = show_one(subject, settings, room, beside, rate, json_)
    if not fits:
        raise typer.Exit(1)
