"""A control arm: tensors take turns in a pool of buffers, which makes gradients wrong wherever views outlive a turn.

Losses are right, and so is everything that is read before another unit takes the buffer. Tests of placement ask that
gradients of this backend are not those of resident training: if they were, the tests could not tell. Only layers of 8
bits, which look for their codes anew in the backward pass, are right even so.
"""

from random import Random

import torch
from torch import Tensor

from hybridopt.core.contracts import PlacedUnit, PlacementBackend


class Pooled(PlacementBackend):
    """What many streamers of weights do: `p.data = buffer`, and the buffer goes to the next layer.

    Args:
        device: the CPU, in the place of an accelerator.
        traffic: counts what is copied.
        options: unused.
    """

    threaded = False

    def __init__(self, device, traffic, options):
        self._traffic = traffic
        self._host: dict[PlacedUnit, list[Tensor]] = {}
        self._near: dict[PlacedUnit, list[Tensor]] = {}
        self._random, self._count = Random(0), options.slots + 1
        self._free: list[list[Tensor]] = []

    @staticmethod
    def serves(base, device) -> bool:
        return False

    def adopt(self, unit):
        self._host[unit] = [piece.tensor.data.clone() for piece in unit.pieces]
        if self._count:
            self._free.append([torch.empty_like(x) for x in self._host[unit]])
            self._count -= 1
        self.rest(unit)

    def fetch(self, unit):
        host = self._host[unit]
        buffers = self._free.pop(self._random.randrange(len(self._free)))
        for buffer, x in zip(buffers, host, strict=True):
            buffer.copy_(x)
            self._traffic.moved += x.nbytes
        self._near[unit] = buffers

    def bind(self, unit):
        for piece, buffer in zip(unit.pieces, self._near[unit], strict=True):
            piece.point(buffer)

    def rest(self, unit):
        for piece, x in zip(unit.pieces, self._host[unit], strict=True):
            piece.point(x)
        if unit in self._near:
            self._free.append(self._near.pop(unit))

    def release(self, unit):
        self._host.pop(unit, None)
