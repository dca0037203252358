"""Everything that is ever asked of a part, one axis a file, each attribute with its default.

Imports torch, and of hybridopt nothing but errors, seeds and directions.
"""

from .activations import Activations, Uniform
from .adapters import Adapters
from .backend import Backend, RepeatedCheck, RepeatedUpdate
from .codec import Codec
from .coded import CodedWeight, PackedWeight
from .computed import computed
from .launcher import Launcher
from .merging import Merging
from .parameter import BlockLayout, ParameterInfo
from .placement import Piece, PlacedUnit, PlacementBackend, Traffic
from .policy import Ready
from .rates import USES, Rate, StartFrom
from .release import Clipping, Named, Release, ReleasedParameters
from .rule import Rule
from .schedule import GapSchedule, Schedule
from .scheme import Make, Room, Scheme
from .source import HowTrained, Noise, ProbeScheme, Source
from .split import Part, Split
from .store import Store
from .training_task import TokenPiece, TrainingJob, TrainingTask
from .values import Density, Draw, Numbers, Population, Shape, Slot, State, found, layer_of, portion, stream

__all__ = [
    "Activations",
    "Adapters",
    "BlockLayout",
    "Backend",
    "Clipping",
    "Codec",
    "CodedWeight",
    "Density",
    "Draw",
    "GapSchedule",
    "HowTrained",
    "Launcher",
    "Make",
    "Merging",
    "Named",
    "Noise",
    "Numbers",
    "PackedWeight",
    "ParameterInfo",
    "Part",
    "Piece",
    "PlacedUnit",
    "PlacementBackend",
    "Population",
    "Rate",
    "ProbeScheme",
    "Ready",
    "Release",
    "ReleasedParameters",
    "RepeatedCheck",
    "RepeatedUpdate",
    "Room",
    "Rule",
    "Schedule",
    "Scheme",
    "Shape",
    "Slot",
    "Source",
    "Split",
    "StartFrom",
    "State",
    "Store",
    "TokenPiece",
    "TrainingJob",
    "Traffic",
    "TrainingTask",
    "Uniform",
    "USES",
    "computed",
    "found",
    "layer_of",
    "portion",
    "stream",
]
