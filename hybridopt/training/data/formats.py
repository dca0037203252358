"""The formats that examples come in, by their columns."""

from dataclasses import dataclass

__all__ = ["FORMATS", "Format"]


@dataclass(frozen=True)
class Format:
    """The columns of a kind of examples, by the names that trainers know.

    Args:
        name: of the format.
        needed: columns that every row has.
        optional: columns that rows may have.
        task: what is learnt from it where nothing else is said; None: it has to be said.
        more: whether other columns are kept, for reward functions that read them.
    """

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    task: str | None = None
    more: bool = False


FORMATS = {
    each.name: each
    for each in (
        Format("messages", ("messages",), ("tools",), "sft"),
        Format("prompt_completion", ("prompt", "completion"), (), "sft"),
        Format("preference", ("chosen", "rejected"), ("prompt",), "dpo"),
        Format("labels", ("text", "label"), ("text_pair",), "classify"),
        Format("text", ("text",), (), "text"),
        Format("prompt", ("prompt",), (), None, more=True),
    )
}
