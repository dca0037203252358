"""4-bit NormalFloat."""

from dataclasses import dataclass

from ..four_bit import FourBitScheme

__all__ = ["Nf4Scheme"]


@dataclass(frozen=True)
class Nf4Scheme(FourBitScheme):
    """4-bit NormalFloat with double quantization (QLoRA, Dettmers et al. 2023): about 4.13 bits a weight."""

    name = title = "nf4"
    nested = True
