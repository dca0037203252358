"""The command `hybridopt init`; what takes time to import is imported inside."""

from typing import Annotated

import typer

from .train import check_installed

__all__ = ["DRAFTS", "init"]

DRAFTS = """Examples:

hybridopt init ./my-model chats.jsonl > run.yaml

hybridopt init Qwen/Qwen3-8B chats.jsonl --gpu 4090 --set data.max_length=4096 > run.yaml

hybridopt init ./my-model pairs.jsonl --set method=frugal --set train.batch=2 > run.yaml
"""

Model = Annotated[str, typer.Argument(help="A model folder, or a hub id (org/name).")]
Files = Annotated[list[str], typer.Argument(metavar="DATA...", help="Files of examples, folders of them, or hub ids.")]
Gpu = Annotated[str | None, typer.Option(help="To plan for: a card (4090, h100), 24GiB, or auto for this machine.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="key=value of run.yaml, such as train.batch=4; may be repeated.")
]


def init(model: Model, data: Files, gpu: Gpu = None, sets: Sets = None) -> None:
    """Print a run.yaml for a model and its data: every key explained, the method chosen by the plan.

    Reads the model's configuration and the data, and no weights. Only YAML goes to stdout; what people should know
    goes to stderr. `hybridopt train run.yaml` trains by it.
    """
    from ..training.config.reading import OptionValue, run_of
    from ..training.running.preparing.preflight import check_there

    run = run_of(model, data, [*(sets or ()), *([OptionValue("gpu", gpu, "--gpu")] if gpu is not None else [])])
    check_installed()
    check_there(run)
    from ..training.running.preparing.draft import draft

    text, told = draft(run)
    for line in told:
        typer.echo(line, err=True)
    typer.echo(text.encode(), nl=False)  # UTF-8, as YAML is read, whatever the terminal's encoding
