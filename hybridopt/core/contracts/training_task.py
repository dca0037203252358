"""What a task of training is asked for: what is learnt from examples, by which trainer."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

__all__ = ["TrainingJob", "TokenPiece", "TrainingTask"]


@dataclass(frozen=True)
class TokenPiece:
    """One sequence of tokens of an example, as a trainer has prepared it.

    Args:
        title: what it is, such as "chosen"; "": it is all of the example.
        tokens: ids of the tokens.
        trained: of each token, whether the loss counts it; (): the loss is not of single tokens.
    """

    title: str
    tokens: Sequence[int]
    trained: Sequence[bool]


@dataclass(frozen=True)
class TrainingJob:
    """All that a trainer is made of.

    Args:
        run: the resolved training run, a `training.config.run.Run`.
        model: wrapped, or a stand-in whose weights are never read.
        tokenizer: of the model, with padding and, for chats, a template.
        train: a `datasets.Dataset` with the columns of its format.
        eval: as `train`; None: nothing is held out.
        labels: names of the classes, where there are any.
        folder: where checkpoints are written.
        max_length: tokens after which sequences are cut; None: they are not.
        packed: whether several examples share a sequence.
        rehearsed: is the model a stand-in, whose weights are not to be read?
        callbacks: of transformers, which are told of every step.
    """

    run: Any
    model: Any
    tokenizer: Any
    train: Any
    eval: Any = None
    labels: tuple[str, ...] = ()
    folder: str = ""
    max_length: int | None = None
    packed: bool = False
    rehearsed: bool = False
    callbacks: tuple[Any, ...] = ()


class TrainingTask(Protocol):
    """What is learnt from examples, by which trainer. A frozen dataclass, whose fields are the keys of task_options.

    Subclass it for its defaults.
    """

    formats: ClassVar[tuple[str, ...]]
    """Formats of examples that it learns from, by the names in `training.data.formats`."""

    head: ClassVar[str] = "causal"
    """The output layer of the model: "causal" continues texts, "classes" tells their class, "score" rates them."""

    sequences: ClassVar[int] = 1
    """How many sequences an example has in a forward pass."""

    packs: ClassVar[bool] = False
    """Can several examples share a sequence?"""

    keeps_rest: ClassVar[bool] = False
    """When examples are packed, does what is longer than a sequence go on in the next, so that nothing is lost?"""

    cuts: ClassVar[bool] = True
    """Can examples be too long for `max_length`? They are cut then, or left out; otherwise all of them is read."""

    reuses: ClassVar[bool] = False
    """Does its trainer take examples as it has prepared them before, uncut, instead of preparing them again?"""

    shards: ClassVar[bool] = True
    """Does its trainer take a model that is sharded over several processes (FSDP2)?"""

    @property
    def code(self) -> str | None:
        """Return the name, package.module:function, of code that its options name; None without."""
        return None

    @property
    def more_tokens(self) -> int:
        """Return how many tokens a sequence gets in training beside those of its example."""
        return 0

    @abstractmethod
    def check(self, run: Any, format: str) -> None:
        """Raise HybridOptError for a run of which it could not do all that is asked; nothing is loaded for that.

        Args:
            run: a `training.config.run.Run`.
            format: of the examples.
        """

    @abstractmethod
    def trainer(self, job: TrainingJob) -> Any:
        """Return the trainer, a transformers `Trainer` mixed with HybridTrainerMixin; nothing is trained yet."""

    @abstractmethod
    def pieces(self, row: Mapping[str, Any], tokenizer: Any) -> list[TokenPiece]:
        """Return the sequences of a row of the trainer's own dataset.

        Args:
            row: of `trainer.train_dataset`.
            tokenizer: of the model.
        """

    @abstractmethod
    def watch(self, trainer: Any, log: Any, screen: Any) -> Any:
        """Write and show records of a trainer's run, and return what has `measured` after it, bytes by name.

        Args:
            trainer: that `trainer` has returned.
            log: a `training.watching.log.LogFile`.
            screen: a `training.watching.screen.Screen`; None: nobody looks.
        """

    def loss_on(self, job: TrainingJob) -> str:
        """Return what of an example the loss is taken on, in the words of `data.loss_on`; "auto": there is no choice.

        job: of the run; its model is not looked at.
        """
        return "auto"

    def fuse_(self, model: Any, device: str) -> None:
        """Let a model on meta compute its loss as the trainer would have it, so that its bytes can be planned.

        Args:
            model: with adapters or without, called with input_ids and labels.
            device: whose kernels count, "cuda" or "cpu".
        """
