"""A table of embeddings that stays on the host: of all its rows, those of the tokens at hand go to the device."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from ...adapters import bare
from ...embeddings import embedding_layer
from ...quantization.owners import owner
from ..guarding.copies import Copied

__all__ = ["RowLookup", "aside", "looked_up"]


def looked_up(model: nn.Module) -> nn.Embedding | None:
    """Return the input embedding of a model if its rows can be looked up on the host; None without such a one.

    It can if nothing else of the model uses the table, as a tied output layer does, and if the module does nothing but
    look rows up, with tensors of its own or codes.
    """
    root = bare(model)
    table = embedding_layer(root, "input")
    if not isinstance(table, nn.Embedding) or any(True for _ in table.buffers()):
        return None
    names = [name for name, p in root.named_parameters(remove_duplicate=False) if p is table.weight]
    return table if len(names) == 1 and owner(table.weight) is None else None


def aside(model: nn.Module, device: torch.device) -> str | None:
    """Return the name of the table that stays on the host where another device computes; None: there is none."""
    table = None if device.type == "cpu" else looked_up(model)
    return None if table is None else next(name for name, p in model.named_parameters() if p is table.weight)


class RowLookup:
    """Lets an embedding find its tokens where its table is, and hand the rows to the device that computes.

    Args:
        table: whose weight comes to the host now, if it is known not to be trained.
        device: that computes.
    """

    def __init__(self, table: nn.Embedding, device: torch.device):
        self.table, self._device = table, device
        if not table.weight.requires_grad:
            table.weight.data = table.weight.data.cpu()
        self._hooks: list[RemovableHandle] = [
            table.register_forward_pre_hook(_Tokens(table), prepend=True, with_kwargs=True),
            table.register_forward_hook(_Found(table, device), prepend=True),
        ]

    @property
    def weight(self) -> Tensor:
        """Return the table."""
        return self.table.weight

    def settle(self) -> None:
        """Bring the table to the device for good if it is going to be trained: updates are worked out there."""
        weight = self.table.weight
        if weight.requires_grad and weight.device != self._device:
            weight.data = weight.data.to(self._device)

    def remove(self) -> None:
        """Leave the table where it is, as an ordinary one."""
        for each in self._hooks:
            each.remove()


class _Tokens(Copied):
    """Brings tokens to the table."""

    def __init__(self, table: nn.Embedding):
        super().__init__(table.weight)

    def __call__(self, table: nn.Embedding, args: Any, kwargs: Any) -> Any:
        where = table.weight.device
        return pytree.tree_map_only(Tensor, lambda tokens: tokens.to(where), (args, kwargs))


class _Found(Copied):
    """Brings rows to the device."""

    def __init__(self, table: nn.Embedding, device: torch.device):
        super().__init__(table.weight)
        self._device = device

    def __call__(self, table: nn.Embedding, args: Any, rows: Tensor) -> Tensor:
        return rows.to(self._device)
