"""hybridopt: state-full and state-free optimizers for every parameter of a model, with LoRA and 4/8-bit weights."""

from .checkpoint import from_pretrained
from .errors import HybridOptError, HybridOptWarning
from .integrations.loading.streaming import load
from .losses.chunked import chunked_loss
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
    "chunked_loss",
    "from_pretrained",
    "load",
    "wrap",
]
