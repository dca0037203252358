"""The formats that examples come in, by their columns."""

from dataclasses import dataclass

from ...core.errors import HybridOptError

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

    def task_for(self, option: str) -> str:
        """Return the task that examples of this format are for, if nothing else is said.

        option: by which the command at hand is told a task, for the error.

        Raises:
            HybridOptError: no task follows from the format.
        """
        if self.task is None:
            raise HybridOptError(f"the data is {self.name!r}, from which no task follows; say which: {option}")
        return self.task


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
