"""The command `hybridopt chat`; what takes time to import is imported inside it."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import HybridOptError
from ..core.printable import visible
from ..core.silence import without_messages

if TYPE_CHECKING:
    from ..training.chat.conversation import Conversation

__all__ = ["chat"]

Where = Annotated[Path, typer.Argument(help="What was trained: adapters or a whole model. Or any model folder.")]
Base = Annotated[Path | None, typer.Option(help="Folder of the base model; by default the one the adapter names.")]
Scheme = Annotated[str | None, typer.Option(help="Of the weights, such as nf4; by default as in training.")]
Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of an answer at most.")]
Warmth = Annotated[float, typer.Option(min=0.0, help="Of sampling; 0 takes the likeliest token each time.")]
RESET, EXIT = "/reset", "/exit"


def chat(
    where: Where, base: Base = None, quantization: Scheme = None, longest: Longest = 512, temperature: Warmth = 0.7
) -> None:
    """Talk to a trained model: one line is one message, the conversation is kept.

    /reset forgets the conversation; /exit or Ctrl-D ends it, and Ctrl-C stops an answer. From a pipe each line is a
    message, and answers go to the output. A model without a chat template goes on with each line as a text.
    """
    if not where.exists():
        raise HybridOptError(
            f"there is nothing at {where}; give the folder that was written, or that of a model. Nothing is "
            "downloaded here; of a model on the hub take what "
            f"huggingface_hub.snapshot_download({str(where)!r}) returns"
        )
    if base is not None and not base.is_dir():
        raise HybridOptError(f"--base={base}: there is no such folder")
    from ..training.chat.conversation import Conversation
    from ..training.chat.loading import load_to_answer
    from ..training.running.quiet import quietly

    with quietly(lambda text: typer.echo(f"hybridopt: {text}", err=True)):
        model, tokenizer = load_to_answer(where, base, quantization)
    conversation = Conversation(model, tokenizer, longest, temperature, _show)
    terminal = sys.stdin.isatty()
    if terminal:
        kind = "a message" if conversation.chats else "a text that it goes on with (it has no chat template)"
        typer.echo(f"Write {kind}. {RESET} forgets, {EXIT} or Ctrl-D ends.", err=True)
    for line in _typed() if terminal else sys.stdin:
        line = line.strip()
        if line == EXIT:
            return
        try:
            _answer(conversation, line)
        except HybridOptError as error:
            if not terminal:
                raise
            typer.echo(f"hybridopt: {error}", err=True)


def _answer(conversation: "Conversation", line: str) -> None:
    """Do what a line says."""
    if line == RESET:
        conversation.reset()
    elif line[:1] == "/" and line[1:].isalpha():
        raise HybridOptError(f"there is no command {line}; there are {RESET} and {EXIT}")
    elif line:
        with suppress(KeyboardInterrupt), without_messages():  # Ctrl-C stops this answer alone
            conversation.ask(line)
        typer.echo("")


def _show(text: str) -> None:
    typer.echo(visible(text), nl=False)
    sys.stdout.flush()


def _typed() -> Iterator[str]:
    """Yield lines from the terminal until it is closed."""
    with suppress(ImportError):
        import readline  # noqa: F401  gives `input` its history and editing
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            typer.echo("")
            return
