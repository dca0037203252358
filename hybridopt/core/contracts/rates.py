"""The learning rates that a policy is started from, each with where it comes from."""

from dataclasses import dataclass

from ..errors import HybridOptError, check_choice, check_count, check_number

__all__ = ["USES", "Rate", "StartFrom"]

USES = ("pretrain", "full", "lora")  # from random weights, all weights of a trained model, or adapters on it
DIGITS = 3  # a start for a search has no more


@dataclass(frozen=True)
class Rate:
    """A learning rate to start a search from.

    Args:
        value: the rate.
        source: where it comes from, in words.
        width: inputs of the model's hidden layers for which it holds; wider models take it in inverse proportion
            (Yang et al. 2022, arXiv 2203.03466, for Adam's rate of hidden weights). None: it does not depend on them.
    """

    value: float
    source: str
    width: int | None = None

    def __post_init__(self) -> None:
        check_number("Rate", "value", self.value, 1e-12, 1e3)
        if self.width is not None:
            check_count("Rate", "width", self.width, 1)

    def times(self, factor: float, source: str) -> "Rate":
        """Return a rate that follows from this one by a factor, for a reason given in words."""
        return Rate(_rounded(self.value * factor), source, self.width)

    def at(self, width: int | None) -> float:
        """Return the rate for a model of this width, which is less for wider ones; None: it is not known."""
        wider = self.width is not None and width is not None and width > self.width
        return _rounded(self.value * self.width / width) if wider and self.width and width else self.value


@dataclass(frozen=True)
class StartFrom:
    """The learning rates that a policy is started from.

    Args:
        pretrain: from random weights; None: nobody does that with it.
        full: for all weights of a trained model.
        lora: for adapters on it.
    """

    pretrain: Rate | None
    full: Rate
    lora: Rate

    def of(self, use: str) -> Rate:
        """Return the rate of a use, one of USES; HybridOptError where there is none."""
        check_choice("", "lr", use, USES)
        rate = {"pretrain": self.pretrain, "full": self.full, "lora": self.lora}[use]
        if rate is None:
            raise HybridOptError(f"lr={use!r}: nothing is known of this policy in pre-training; give a number")
        return rate


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
