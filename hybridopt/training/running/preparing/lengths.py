"""How long sequences may be: as data and model say."""

from dataclasses import replace
from typing import Any

from ....core.contracts import TrainingTask
from ....core.errors import HybridOptError
from ....planning import positions
from ...config.run import AUTO, Run
from .rehearsal import Rehearsal

__all__ = ["check_positions", "check_words", "positions_of", "with_lengths"]

NAME = "max_position_embeddings"
TOKENS = 2048  # of a sequence where nobody says


def positions_of(config: Any) -> int | None:
    """Return the tokens that a model has room for, by its configuration or its table of positions; None: any number.

    Some configurations have another name for that number, and some tables begin with rows that are for padding.
    """
    text = config.get_text_config()
    said = text.to_dict().get(text.attribute_map.get(NAME, NAME))
    table = positions(config)
    return min((rows for rows in (said, table) if rows), default=None)


def with_lengths(run: Run, task: TrainingTask, positions: int | None) -> Run:
    """Return a run with max_length and packing filled in.

    Args:
        run: what is asked.
        task: what is learnt.
        positions: tokens that the model has room for; None: any number.

    Raises:
        HybridOptError: sequences are to be longer than the model has room for.
    """
    data = run.data
    length = min(TOKENS, positions or TOKENS) if data.max_length == AUTO else int(data.max_length)
    if positions is not None and length > positions:
        raise HybridOptError(
            f"data.max_length={length}: the model has {positions} positions (max_position_embeddings); write "
            f"data.max_length: {positions} or less"
        )
    packing = task.packs and task.keeps_rest if data.packing == AUTO else bool(data.packing)
    return replace(run, data=replace(data, max_length=length, packing=packing))


def check_positions(rehearsal: Rehearsal, task: TrainingTask, positions: int | None) -> None:
    """Refuse sequences that are not cut and are longer than the model has room for.

    Args:
        rehearsal: what the examples are, tokenized.
        task: what is learnt; it may add tokens, such as those that are generated.
        positions: of the model; None: it has no limit.

    Raises:
        HybridOptError: the longest one is too long.
    """
    needed = rehearsal.longest + task.more_tokens
    if positions is not None and needed > positions:
        raise HybridOptError(
            f"the longest example has {rehearsal.longest} tokens, and {task.more_tokens} are added to it: more than "
            f"the model's {positions} positions; leave long examples out, or let less be added"
        )


def check_words(tokenizer: Any, config: Any, run: Run) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Args:
        tokenizer: of the run.
        config: of the model.
        run: for the name of its model.

    Raises:
        HybridOptError: there are tokens that the model does not know.
    """
    words = config.get_text_config().vocab_size
    if len(tokenizer) > words:
        raise HybridOptError(
            f"model={run.model!r}: the tokenizer has {len(tokenizer)} tokens, and the model {words}; they belong to "
            "different models, or the model's embeddings are to be resized first"
        )
