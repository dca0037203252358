"""The claims that the pre-training table is to decide, each with a verdict that follows from the records."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .summary import Summary, difference

__all__ = ["CLAIMS", "Claim", "verdicts"]

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided yet"
MARGIN = 0.01  # of the other's loss, for "within 1 %"


@dataclass(frozen=True)
class Claim:
    """That one row's loss minus another's is at most a share of the other's. text: says it. Both are keys of rows."""

    text: str
    one: str
    other: str
    margin: float = 0.0

    def verdict(self, found: Mapping[str, Summary]) -> tuple[str, str] | None:
        """Return the verdict and the numbers behind it; None as long as the rows have no seed in common.

        It is decided when the 95 % interval of the paired differences lies on one side of the bound.
        """
        one, other = found.get(self.one), found.get(self.other)
        if one is None or other is None:
            return None
        middle, half, count = difference(one, other)
        if not count:
            return None
        loss = other.loss or math.nan
        bound = self.margin * loss
        shown = f"{middle:+.3f}" + (f" ± {half:.3f}" if half < math.inf else "")
        numbers = f"{shown} nats ({middle / loss:+.1%}), {count} seed{'s' * (count > 1)}"
        if half == math.inf or middle - half <= bound < middle + half:
            return OPEN, numbers
        return (HOLDS if middle + half <= bound else FAILS), numbers


def main(text: str, one: str, other: str = "adamw", margin: float = 0.0) -> Claim:
    """Return a claim on two rows of the main table."""
    return Claim(text, f"main/{one}", f"main/{other}", margin)


def lead(study: str, title: str) -> tuple[Claim, ...]:
    """Return the claims on the decisive rows of another study."""
    return tuple(
        Claim(f"{title}: {text}", f"{study}/{one}", f"{study}/adamw", margin)
        for text, one, margin in (
            ("FRUGAL ρ=0.25 with signSGD is within 1 % of AdamW", "frugal", MARGIN),
            ("whitening at ρ=0 is within 1 % of AdamW", "frugal-0-whiten", MARGIN),
            ("whitening at ρ=0.25 is ahead of AdamW", "frugal-whiten", 0.0),
        )
    )


CLAIMS = (
    main("FRUGAL ρ=0.25 with signSGD is within 1 % of AdamW", "frugal", margin=MARGIN),
    main("FRUGAL ρ=0.25 is ahead of GaLore ρ=0.25", "frugal", "galore"),
    main("FRUGAL ρ=0.25 is ahead of BAdam with one layer of four", "frugal", "badam"),
    main("whitening at ρ=0 is within 1 % of AdamW", "frugal-0-whiten", margin=MARGIN),
    main("Sinkhorn at ρ=0 is within 1 % of AdamW", "frugal-0-sinkhorn", margin=MARGIN),
    main("whitening at ρ=0.25 is ahead of AdamW", "frugal-whiten"),
    main("whitening is better at ρ=0.25 than at ρ=0", "frugal-whiten", "frugal-0-whiten"),
    main("Sinkhorn is better at ρ=0.25 than at ρ=0", "frugal-sinkhorn", "frugal-0-sinkhorn"),
    main("at ρ=0.25 whitening is better than signSGD", "frugal-whiten", "frugal"),
    *lead("2m", "2 M parameters"),
    *lead("4k", "4,096 tokens a step"),
    *lead("8m", "8 M parameters"),
    *lead("16k", "16,384 tokens a step"),
    *lead("60m", "LLaMA-60M"),
    main("Adam-mini is within 1 % of AdamW", "adam_mini", margin=MARGIN),
    main("Adam-mini is better with values in one block", "adam_mini-whole", "adam_mini"),
    main("AdaLomo is within 1 % of AdamW", "adalomo", margin=MARGIN),
    main("8-bit state costs AdamW less than 1 %", "adamw-int8", margin=MARGIN),
    main("7 bytes a parameter (bf16_split, companded8) cost AdamW less than 1 %", "adamw-split", margin=MARGIN),
)


def verdicts(found: Mapping[str, Summary], claims: tuple[Claim, ...] = CLAIMS) -> list[tuple[str, str, str]]:
    """Return text, verdict and numbers of every claim on rows that have full runs with a seed in common."""
    told = ((claim.text, claim.verdict(found)) for claim in claims)
    return [(text, *verdict) for text, verdict in told if verdict is not None]
