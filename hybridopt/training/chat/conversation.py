"""A conversation with a model: messages in, text out, token by token."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...core.errors import HybridOptError
from ..running.preparing.lengths import positions_of

__all__ = ["Conversation"]


class Conversation:
    """Asks a model, and remembers what was said; a model without a chat template goes on with a text instead.

    Args:
        model: a causal language model.
        tokenizer: with its chat template, if it has one.
        max_new_tokens: of an answer at most.
        temperature: of sampling; 0 takes the likeliest token each time.
        show: is given the answer in pieces, as they come.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, max_new_tokens: int, temperature: float, show: Callable[[str], object]
    ):
        self.model: Any = model
        self.tokenizer, self.show = tokenizer, show
        self.options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
        self.options["temperature"] = temperature if temperature > 0 else None
        if not temperature:
            self.options |= {"top_p": None, "top_k": None}
        self.messages: list[dict[str, str]] = []

    @property
    def chats(self) -> bool:
        """Whether there are turns; otherwise each text is gone on with by itself."""
        return bool(self.tokenizer.chat_template)

    def reset(self) -> None:
        """Forget what was said."""
        self.messages.clear()

    def ask(self, text: str) -> str:
        """Show the answer while it is written, and return it; it and `text` are remembered.

        Raises:
            HybridOptError: there is no room left for an answer; nothing is remembered.
        """
        inputs = self._inputs(text)
        taken = inputs["input_ids"].shape[1]
        room = self._positions()
        if room is not None and taken >= room:
            raise HybridOptError(
                f"{taken:,} tokens were said, and the model has room for {room:,}; /reset forgets them"
            )
        options = dict(self.options)
        if room is not None:
            options["max_new_tokens"] = min(options["max_new_tokens"], room - taken)
        pad = self.tokenizer.pad_token_id
        options["pad_token_id"] = self.tokenizer.eos_token_id if pad is None else pad
        with torch.no_grad():
            out = self.model.generate(**inputs, **options, streamer=_shown(self.tokenizer, self.show))
        answer = self.tokenizer.decode(out[0][taken:], skip_special_tokens=True)
        if self.chats:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return str(answer)

    def _inputs(self, text: str) -> dict[str, Any]:
        device = next(self.model.parameters()).device
        if not self.chats:
            found = self.tokenizer(text, return_tensors="pt")
        else:
            asked = [*self.messages, {"role": "user", "content": text}]
            try:
                found = self.tokenizer.apply_chat_template(
                    asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
            except Exception as error:  # of the template
                raise HybridOptError(f"the chat template cannot be applied: {error!s:.300}") from error
        return {name: found[name].to(device) for name in ("input_ids", "attention_mask")}

    def _positions(self) -> int | None:
        """Return how many tokens the model has room for; None: it does not say."""
        return positions_of(self.model.config)


def _shown(tokenizer: Any, show: Callable[[str], object]) -> Any:
    from transformers import TextStreamer

    class Shown(TextStreamer):
        """Hands finished words over instead of printing them."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            show(text)

    return Shown(tokenizer, skip_prompt=True, skip_special_tokens=True)
