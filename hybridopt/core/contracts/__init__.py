"""Everything that is ever asked of a part, one axis a file; imports torch, and only errors and seeds of hybridopt."""

from .adapters import Adapters
from .codec import Codec
from .coded import CodedWeight
from .launcher import Launcher
from .rule import Rule
from .scheme import Make, Room, Scheme
from .source import Noise, ProbeScheme, Source
from .split import Part, Split
from .store import Store
from .values import Density, Draw, Numbers, Population, Shape, Slot, State, layer_of, portion, stream

__all__ = [
    "Adapters",
    "Codec",
    "CodedWeight",
    "Density",
    "Draw",
    "Launcher",
    "Make",
    "Noise",
    "Numbers",
    "Part",
    "Population",
    "ProbeScheme",
    "Room",
    "Rule",
    "Scheme",
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
