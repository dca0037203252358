"""Everything that is ever asked of a part, one axis a file; imports torch, and only errors and seeds of hybridopt."""

from .codec import Codec
from .rule import Rule
from .source import Noise, ProbeScheme, Source
from .split import Part, Split
from .store import Store
from .values import Density, Draw, Numbers, Population, Shape, Slot, State, layer_of, portion, stream

__all__ = [
    "Codec",
    "Density",
    "Draw",
    "Noise",
    "Numbers",
    "Part",
    "Population",
    "ProbeScheme",
    "Rule",
    "Shape",
    "Slot",
    "Source",
    "Split",
    "State",
    "Store",
    "layer_of",
    "portion",
    "stream",
]
