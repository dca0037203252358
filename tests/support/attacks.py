"""What an attack on reliability finds out: how often it was tried, survived, and what was lost."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["Attack", "Figures", "tally"]


@dataclass
class Figures:
    """How an attack went.

    tried, survived: how often. lost: a sentence for everything that did not survive. notes: what else was counted.
    """

    tried: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def note(self, what: str) -> None:
        """Count one more of what happened."""
        self.notes[what] = self.notes.get(what, 0) + 1


@dataclass(frozen=True)
class Attack:
    """One way in which things go wrong.

    what: in a few words. survives: what must hold afterwards. once: carries it out with a seed; returns what happened,
    in a word or two, and raises AssertionError for what was lost. rounds: of the long run; few: of the test suite.
    """

    what: str
    survives: str
    once: Callable[[int], str]
    rounds: int
    few: int


def tally(attack: Attack, seeds: Iterable[int], each: Callable[[], object] = lambda: None) -> Figures:
    """Carry an attack out once a seed."""
    figures = Figures()
    for seed in seeds:
        figures.tried += 1
        try:
            figures.note(attack.once(seed))
            figures.survived += 1
        except AssertionError as error:
            figures.lost.append(f"seed {seed}: {error}")
        each()
    return figures
