"""What `hybridopt.wrap` has attached to a model, which types of torch do not know."""

from torch import nn

from hybridopt.strategy import Strategy

__all__ = ["strategy"]


def strategy(model: nn.Module) -> Strategy:
    """Return `model.hybrid` of a model that is wrapped."""
    found = model.hybrid
    assert isinstance(found, Strategy)
    return found
