"""hybridopt: state-full and state-free optimizers for every parameter of a model, with LoRA and 4/8-bit weights."""

from .core.errors import HybridOptError, HybridOptWarning
from .model.loading.streaming import load
from .model.losses.chunked import chunked_loss
from .optimizer.optimizer import HybridOptimizer
from .policy.plan import Plan
from .policy.routes import Policy, Route
from .policy.treatment import Treatment
from .reloading import from_pretrained
from .strategy import Strategy
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
