"""What a model has room for: tokens of its vocabulary, and of a sequence."""

from typing import Any

from ...core.errors import HybridOptError, check_count
from ..config.run import AUTO, Data

__all__ = ["check_vocabulary", "length_of"]

USUAL = 2048  # tokens of a sequence
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")  # as configurations say


def check_vocabulary(tokenizer: Any, config: Any, model: str) -> None:
    """Raise HybridOptError where a tokenizer has numbers beyond the rows of the model's embedding.

    Args:
        tokenizer: of the run.
        config: of the model.
        model: its name, for errors.
    """
    rows, most = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values(), default=0)
    if most >= rows:
        token = tokenizer.convert_ids_to_tokens(most)
        raise HybridOptError(
            f"model={model!r}: the tokenizer has numbers up to {most} ({token!r}), but the model's embedding has "
            f"{rows} rows; take the tokenizer that belongs to the model, or enlarge the embedding "
            "(resize_token_embeddings) and save the model first"
        )


def length_of(data: Data, config: Any, model: str) -> int:
    """Return the most tokens of a sequence: what the run says, or 2048, or all that the model has room for.

    Args:
        data: what the run says about its data.
        config: of the model.
        model: its name, for errors.

    Raises:
        HybridOptError: for sequences longer than the model has positions.
    """
    said = config.get_text_config().to_dict()
    room = next((said[name] for name in POSITIONS if isinstance(said.get(name), int) and said[name] > 0), None)
    if data.max_length == AUTO:
        return min(USUAL, room) if room else USUAL
    check_count("data", "max_length", data.max_length, 2)
    if room and int(data.max_length) > room:
        raise HybridOptError(
            f"data.max_length={data.max_length} is more than the {room} positions of model={model!r}; "
            f"--set data.max_length={room}"
        )
    return int(data.max_length)
