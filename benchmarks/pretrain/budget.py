"""What every run of one table shares: the model, the text and the schedule, in several sizes."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from .text import Text, load

BOOKS = ("wikitext2/test.txt", "gutenberg/moby_dick.txt", "gutenberg/pride_and_prejudice.txt")
ALL = (*BOOKS, "tinyshakespeare/input.txt", "gsm8k/train.jsonl", "boolq/val.jsonl")


@dataclass(frozen=True)
class Budget:
    """The model, the text and the schedule of every run of every method.

    batch: windows of `sequence` tokens in a step. tokens: of a full run. short: its share that a run of the search
    takes. floor: of the learning rate, where the cosine ends. clip: largest norm of all gradients together.
    choosing, reporting: windows of held-out text by which rates are chosen, and whose loss is reported.
    """

    hidden: int = 128
    layers: int = 4
    intermediate: int = 344
    heads: int = 4
    vocabulary: int = 1024
    sequence: int = 128
    batch: int = 8
    tokens: int = 1_024_000
    short: float = 0.125
    warmup: float = 0.1
    floor: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    choosing: int = 256
    reporting: int = 512
    autocast: bool = True
    device: str = "cpu"
    train: tuple[str, ...] = BOOKS
    held_out: str = "wikitext2/valid.txt"

    @property
    def full_steps(self) -> int:
        """Return the steps of a full run."""
        return max(1, self.tokens // (self.batch * self.sequence))

    @property
    def short_steps(self) -> int:
        """Return the steps of a run of the search."""
        return max(1, round(self.short * self.full_steps))

    def update_gap(self, steps: int) -> int:
        """Return the steps of a window: a twentieth of the run, at least 25, and at most a quarter of the run."""
        return max(1, min(max(steps // 20, 25), steps // 4))

    def text(self, folder: Path) -> Text:
        """Read and tokenise the text that lies in `folder`."""
        train = tuple(folder / name for name in self.train)
        held_out = folder / self.held_out
        return load(train, held_out, self.vocabulary, self.sequence, (self.choosing, self.reporting))

    def shared(self) -> dict:
        """Return what every run shares, as JSON has it."""
        return asdict(self) | {"train": list(self.train)}

    @staticmethod
    def from_settings(settings: dict) -> "Budget":
        """Return the budget with which a record was made."""
        own = {field.name: settings[field.name] for field in fields(Budget)}
        return Budget(**own | {"train": tuple(own["train"])})


MAIN = Budget()
SIZES = {
    "1m": MAIN,
    "2m": replace(MAIN, hidden=192, intermediate=512),
    "8m": replace(MAIN, hidden=320, intermediate=864, layers=6, heads=5),
    # FRUGAL's and GaLore's LLaMA-60M, with a vocabulary that suits a few MB of text instead of 32,000
    "60m": replace(
        MAIN,
        hidden=512,
        layers=8,
        intermediate=1376,
        heads=8,
        vocabulary=4096,
        sequence=256,
        batch=64,
        tokens=9_830_400,
        train=ALL,
    ),
}
