"""Where the learning rates come from that policies are started from: tables of this repository, papers, or AdamW's.

A better measurement changes one line: that of AdamW here, or `start_from` in the file of the policy.
"""

from dataclasses import dataclass

from ...core.contracts import Rate, StartFrom

__all__ = [
    "ADAMW",
    "ADDAX",
    "AS_MEZO",
    "MEZO",
    "PRETRAIN",
    "PRETRAIN_128K",
    "FINETUNE",
    "beside_adamw",
    "guessed",
    "paper",
]


@dataclass(frozen=True)
class Results:
    """A table of this repository, as a source of rates: PRETRAIN(3e-3).

    Args:
        path: of the table.
        width: of the model that was trained.
    """

    path: str
    width: int

    def __call__(self, value: float, scaled: bool = True, ends: float = 1.0) -> Rate:
        """Return a rate that was the best there.

        Args:
            value: the rate.
            scaled: is it smaller for wider models?
            ends: the embeddings_lr_scale that it was best with.
        """
        beside = "" if ends == 1 else f", with embeddings_lr_scale={ends:g}"
        return Rate(value, f"measured in {self.path}{beside}", self.width if scaled else None)


PRETRAIN = Results("benchmarks/results/pretrain.md", 128)
PRETRAIN_128K = Results("benchmarks/results/pretrain_128k.md", 128)  # of methods that the other has not confirmed yet
FINETUNE = Results("benchmarks/results/finetune.md", 384)
ADDAX = Results("benchmarks/results/addax.md", 128)

ADAMW = StartFrom(PRETRAIN(3e-3, ends=10), FINETUNE(1e-4), FINETUNE(3e-3))


def beside_adamw(
    factor: float,
    why: str = "",
    *,
    pretrain: Rate | None = None,
    full: Rate | None = None,
    lora: Rate | None = None,
) -> StartFrom:
    """Return rates of which those that nobody has measured follow from AdamW's.

    Args:
        factor: on AdamW's rates.
        why: what the factor comes from, in words.
        pretrain: measured.
        full: measured.
        lora: measured.
    """
    times = "" if factor == 1 else f"{factor:g} times "
    told = f"derived: {times}AdamW's" + (why and f", {why}")

    def derived(rate: Rate | None) -> Rate | None:
        return None if rate is None else rate.times(factor, told)

    return StartFrom(
        pretrain or derived(ADAMW.pretrain),
        full or ADAMW.full.times(factor, told),
        lora or ADAMW.lora.times(factor, told),
    )


def paper(value: float, why: str = "") -> Rate:
    """Return a rate that the method's own paper gives, of whatever width; why: more of it, in words."""
    return Rate(value, "the paper's" + (why and f", {why}"))


def guessed(value: float, why: str) -> Rate:
    """Return a rate that nobody has measured; why: what it follows from, in words."""
    return Rate(value, f"derived: {why}")


MEZO = StartFrom(None, paper(1e-6), paper(1e-4, "with eps=1e-2"))
AS_MEZO = StartFrom(None, guessed(1e-6, "MeZO's"), guessed(1e-4, "MeZO's with eps=1e-2"))
