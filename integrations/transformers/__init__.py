"""What is special to transformers: the optimizer of its trainer, and tasks that the trainer itself does."""

from .factory import HybridOptimizerFactory, own_options

__all__ = ["HybridOptimizerFactory", "own_options"]
