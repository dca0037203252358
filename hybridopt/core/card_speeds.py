"""How fast cards multiply in 16 bits, as their makers say: a bound, of which training reaches a part."""

from dataclasses import dataclass

from .cards import card_named
from .errors import HybridOptError

__all__ = ["SUSTAINED", "TFLOPS", "Flops", "sustained"]

SUSTAINED = 0.45  # of what the maker says: an assumption
# Dense products of 16-bit matrices with sums in float32, in TFLOP/s, at the maker's own clock: of GeForce cards
# twice what their shaders do in float32. Cards whose maker says nothing of the kind are not listed.
TFLOPS = {
    "B200 180 GB": 2250,
    "H200 141 GB": 989,
    "GH200 96 GB": 989,
    "RTX PRO 6000 96 GB": 503,
    "H100 NVL 94 GB": 835,
    "H100 80 GB": 989,
    "A100 80 GB": 312,
    "A100 40 GB": 312,
    "RTX 6000 Ada 48 GB": 364,
    "RTX A6000 48 GB": 155,
    "L40S 48 GB": 362,
    "L40 48 GB": 181,
    "A40 48 GB": 150,
    "RTX 5090 32 GB": 209,
    "RTX 4090 24 GB": 165,
    "RTX 3090 Ti 24 GB": 80,
    "RTX 3090 24 GB": 71,
    "RTX A5000 24 GB": 111,
    "A30 24 GB": 165,
    "L4 24 GB": 121,
    "A10 24 GB": 125,
    "RTX 5080 16 GB": 112,
    "RTX 4080 Super 16 GB": 104,
    "RTX 4080 16 GB": 97,
    "RTX 4070 Ti Super 16 GB": 88,
    "RTX 4060 Ti 16 GB": 44,
    "T4 16 GB": 65,
    "RTX 3060 12 GB": 25,
    "RTX 3080 12 GB": 61,
    "RTX 3080 Ti 12 GB": 68,
    "RTX 4070 12 GB": 58,
    "RTX 4070 Super 12 GB": 71,
    "RTX 4070 Ti 12 GB": 80,
    "RTX 5070 12 GB": 61,
    "RTX 2080 Ti 11 GB": 53,
    "RTX 3080 10 GB": 59,
    "RTX 4060 Ti 8 GB": 44,
    "RTX 4060 8 GB": 30,
    "RTX 3070 8 GB": 40,
}


@dataclass(frozen=True)
class Flops:
    """Multiplications and sums a second.

    Args:
        a_second: how many.
        known: "given", or what is assumed.
    """

    a_second: float
    known: str = "given"

    def __str__(self) -> str:
        return f"{self.a_second / 1e12:.3g} TFLOP/s ({self.known})"


def sustained(name: str) -> Flops | None:
    """Return what training is assumed to reach on a card; None for cards of which nothing is known."""
    try:
        card = card_named(name)
    except HybridOptError:
        return None
    peak = None if card is None else TFLOPS.get(card.name)
    if peak is None:
        return None
    return Flops(SUSTAINED * peak * 1e12, f"assumed: {SUSTAINED:.0%} of what its maker says")
