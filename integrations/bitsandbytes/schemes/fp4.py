"""4-bit floats."""

from dataclasses import dataclass

from ..four_bit import FourBitScheme

__all__ = ["Fp4Scheme"]


@dataclass(frozen=True)
class Fp4Scheme(FourBitScheme):
    """4-bit floats with float32 scales (bitsandbytes' fp4): 4.5 bits a weight."""

    name = title = "fp4"
    nested = False
