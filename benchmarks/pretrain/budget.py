"""What every run of the pre-training table shares: the model, the text and the schedule, in two sizes."""

from dataclasses import asdict, dataclass
from pathlib import Path

from .methods import Method
from .text import Text, load

WIKI = ("wikitext2/test.txt",)
ALL = (
    *WIKI,
    "gutenberg/moby_dick.txt",
    "gutenberg/pride_and_prejudice.txt",
    "tinyshakespeare/input.txt",
    "gsm8k/train.jsonl",
    "boolq/val.jsonl",
)


@dataclass(frozen=True)
class Budget:
    """The model, the text and the schedule of every run of every method. update_gap is in steps."""

    hidden: int = 128
    layers: int = 4
    intermediate: int = 344
    heads: int = 4
    vocabulary: int = 512
    sequence: int = 128
    batch: int = 4
    steps: int = 400
    update_gap: int = 50
    warmup: float = 0.1
    floor: float = 0.1  # of the learning rate, where the cosine ends
    weight_decay: float = 0.0
    validation: int = 128
    weights: str = "float32"
    autocast: bool = False
    device: str = "cpu"
    train: tuple[str, ...] = WIKI
    held_out: str = "wikitext2/valid.txt"

    def text(self, folder: Path) -> Text:
        """Read and tokenise the text that lies in `folder`."""
        train = [folder / name for name in self.train]
        return load(train, folder / self.held_out, self.vocabulary, self.sequence, self.validation)

    def shared(self) -> dict:
        """Return what every run shares, as JSON has it."""
        return asdict(self) | {"train": list(self.train)}

    def settings(self, method: Method) -> dict:
        """Return everything besides learning rate and seed that decides a run, as JSON has it."""
        return self.shared() | {"options": method.settings(self.update_gap)}


SIZES = {
    "tiny": Budget(),
    # FRUGAL's LLaMA-60M, with a vocabulary that suits a few MB of text instead of 32,000
    "60m": Budget(
        hidden=512,
        layers=8,
        intermediate=1376,
        heads=8,
        vocabulary=4096,
        sequence=256,
        batch=32,
        steps=600,
        validation=256,
        autocast=True,
        train=ALL,
    ),
}
