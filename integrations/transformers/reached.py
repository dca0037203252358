"""Whether the loss of a model depends on all parameters that are trained, as DDP wants to know."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["reaches_all"]

TOKENS = 4  # of the one sequence that is looked at


def reaches_all(model: nn.Module) -> bool:
    """Return whether the outputs of a language model depend on all of its parameters that require a gradient.

    It computes them for a few tokens and follows what autograd notes; no gradients are computed. What depends on the
    tokens, as in a mixture of experts, is not reached by all.
    """
    trained = {p for p in model.parameters() if p.requires_grad}
    modes = {module: module.training for module in model.modules()}
    tokens = torch.ones(1, TOKENS, dtype=torch.long, device=next(model.parameters()).device)
    try:
        model.eval()  # so that no random numbers are drawn
        with torch.enable_grad():
            found = _behind(model(input_ids=tokens).logits)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return trained <= found


def _behind(output: Tensor) -> set[Tensor]:
    """Return the tensors without history that a tensor was computed from."""
    found: set[Tensor] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("AccumulateGrad"):
            found.add(node.variable)
        waiting += [each for each, _ in node.next_functions]
    return found
