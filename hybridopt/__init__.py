"""hybridopt: state-full and state-free optimizers for every parameter of a model, with LoRA and 4/8-bit weights."""

from .checkpoint import from_pretrained
from .errors import HybridOptError, HybridOptWarning
from .optimizer import HybridOptimizer
from .plan import Plan
from .policy import Policy, Route
from .strategy import Strategy
from .treatment import Treatment
from .wrapping import wrap

__all__ = [
    "HybridOptError",
    "HybridOptWarning",
    "HybridOptimizer",
    "Plan",
    "Policy",
    "Route",
    "Strategy",
    "Treatment",
    "from_pretrained",
    "wrap",
]
