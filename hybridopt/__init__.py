"""hybridopt: state-full and state-free optimizers for every parameter of a model, with LoRA and 4/8-bit weights."""

from typing import TYPE_CHECKING

from .core.lazy import offered

if TYPE_CHECKING:
    from .core.errors import HybridOptError, HybridOptWarning
    from .core.version import __version__
    from .model.activations.schemes.wta_crs import WtaCrs
    from .model.loading.streaming import load
    from .model.losses.chunked import chunked_loss
    from .model.placement.placement import Placement
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
    "Placement",
    "Plan",
    "Policy",
    "Route",
    "Strategy",
    "Treatment",
    "WtaCrs",
    "__version__",
    "chunked_loss",
    "from_pretrained",
    "load",
    "wrap",
]

_HOMES = {
    "HybridOptError": "core.errors",
    "HybridOptWarning": "core.errors",
    "__version__": "core.version",
    "load": "model.loading.streaming",
    "chunked_loss": "model.losses.chunked",
    "Placement": "model.placement.placement",
    "HybridOptimizer": "optimizer.optimizer",
    "Plan": "policy.plan",
    "Policy": "policy.routes",
    "Route": "policy.routes",
    "Treatment": "policy.treatment",
    "from_pretrained": "reloading",
    "Strategy": "strategy",
    "wrap": "wrapping",
    "WtaCrs": "model.activations.schemes.wta_crs",
}
__getattr__ = offered(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*__all__, "integrations", "parts", "planning", "policy"]
