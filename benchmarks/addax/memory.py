"""What a step of an arm takes, in bytes."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..shared.peak import Peak
from ..shared.tensor_bytes import bytes_of, state_tensors
from .arms import Arm, Setting
from .model import answer_loss
from .stepping import pools_of, train_step
from .task import Budget, Task


def memory_of(arm: Arm, setting: Setting, budget: Budget, task: Task) -> dict[str, int]:
    """Return the bytes of a step on the longest examples it can meet.

    Args:
        arm: what trains.
        setting: learning rate and alpha.
        budget: says what long is.
        task: whose training split, and whose model.

    Returns:
        saved_bytes: what autograd keeps from forward to backward. step_bytes: the most that was allocated within the
        step beyond what was there before (gradients, temporaries, recomputed activations included). state_bytes,
        weight_bytes: what is there between steps.
    """
    first, zeroth = pools_of(arm, budget, task)
    first, zeroth = first and first.longest(arm.gradients), zeroth and zeroth.longest(arm.probes)
    model = deepcopy(task.model).train()
    optimizer = arm.optimizer(model, *setting, 0)
    saved = saved_bytes(model, lambda: answer_loss(model, first)) if first else 0
    train_step(model, optimizer, first, zeroth)  # state is there from now on
    with Peak("cpu") as peak:
        train_step(model, optimizer, first, zeroth)
    return {
        "saved_bytes": saved,
        "step_bytes": peak.extra,
        "state_bytes": bytes_of(state_tensors(optimizer)),
        "weight_bytes": bytes_of(iter(model.parameters())),
    }


def saved_bytes(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights not counted, each storage once."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of()
    return bytes_of(tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in known)
