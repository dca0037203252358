"""The tiles in which TRL computes the log-probabilities of causal language models."""

__all__ = ["tokens_of_tile"]

TOKENS, WORDS = 4096, 32768  # of a tile at most: trl.kernels.chunked_logprob, trl.trainer.utils


def tokens_of_tile(tokens: int, words: int) -> int:
    """Return the number of tokens whose logits of all words take as much as one tile.

    Args:
        tokens: of a forward pass.
        words: in the vocabulary.
    """
    return max(1, min(tokens, TOKENS) * min(words, WORDS) // words)
