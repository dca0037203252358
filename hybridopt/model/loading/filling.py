"""What is known of a model before it is filled with the values of a folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ...core.contracts import Scheme
from .matching import Match

__all__ = ["Filling"]


@dataclass(frozen=True)
class Filling:
    """A model that is about to be filled, and with what.

    Args:
        model: on the meta device.
        found: what it is made of.
        dtypes: of its tensors once they are filled in, by name.
        scheme: by which weights are quantized; None: none is.
        layers: names of the weights that are quantized.
        device: that computes.
    """

    model: nn.Module
    found: Match
    dtypes: Mapping[str, torch.dtype]
    scheme: Scheme | None
    layers: Collection[str]
    device: torch.device
