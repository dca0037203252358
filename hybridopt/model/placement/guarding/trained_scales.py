"""Scales of quantized weights that are trained, where their layers rest elsewhere."""

from torch import nn

from ...quantization import scales
from ..homes import home
from ..placed import placed

__all__ = ["open_scales_"]


def open_scales_(model: nn.Module) -> None:
    """Do as `quantization.scales.open_scales_`; scales of layers that rest elsewhere stay on the device from now on.

    They are written in every step, and what they were made of may be a file.
    """
    scales.open_scales_(model)
    found = placed(model)
    if found is not None:
        for _, _, x in scales.scales(model):
            if home(x) is None:
                x.data = x.data.to(found.device, copy=True)
