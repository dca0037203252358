"""Count the tokens that a Trainer trains on, padding left out, each once however often it is looked at."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["Tokens", "tokens_in"]

MASK = "attention_mask"


class Tokens:
    """The number of tokens in all batches so far of this process.

    `known` is False once a batch was of a kind whose tokens cannot be counted, such as the prompts of GRPO.
    """

    def __init__(self) -> None:
        self._sum: int | Tensor = 0  # on the batches' device, so that nobody waits for it
        self.known = True

    def add(self, inputs: Any) -> None:
        """Count a batch as the Trainer hands it to `training_step`."""
        found = tokens_in(inputs)
        if found is None:
            self.known = False
        else:
            self._sum = self._sum + found

    @property
    def count(self) -> int:
        """Return the number of tokens; a GPU is waited for."""
        return int(self._sum)


def tokens_in(inputs: Any) -> int | Tensor | None:
    """Return the tokens of a batch that are no padding; None where they cannot be told.

    What the attention masks leave in, over all of them where there are several (chosen and rejected); without a mask
    all of input_ids, as in batches that are packed without padding.
    """
    if not isinstance(inputs, Mapping):
        return None
    if set(inputs) == {"fo", "zo"}:  # the two halves of Addax
        halves = [tokens_in(inputs["fo"]), tokens_in(inputs["zo"])]
        return None if halves[0] is None or halves[1] is None else halves[0] + halves[1]
    masks = [x for key, x in inputs.items() if key.endswith(MASK) and isinstance(x, Tensor) and x.dim() == 2]
    if masks:
        return sum(mask.sum() for mask in masks)
    ids = [x for key, x in inputs.items() if key.endswith("input_ids") and isinstance(x, Tensor)]
    return sum(x.numel() for x in ids) if ids else None
