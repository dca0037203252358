"""Ranks of LoRA above what the layers beneath can use."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hybridopt.model.roles import base_name

__all__ = ["useless_rank"]

PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
LISTED = 3  # layers that are named
MUCH = 0.1  # of the adapters' parameters, from which on something is said


@dataclass(frozen=True)
class _Found:
    """An adapter of one layer: its rank, and the sides of the matrix that its product is added to."""

    layer: str
    rank: int
    sides: tuple[int, int]

    @property
    def excess(self) -> int:
        """Return how much of the rank is above the smaller side, which is the rank of any such matrix."""
        return max(0, self.rank - min(self.sides))


def useless_rank(adapted: nn.Module) -> str | None:
    """Return a sentence on adapters of more rank than their layers can use; None where next to nothing is lost.

    Layers with few outputs, such as routers, often have a smaller side than the rank that is right for all others.

    adapted: a model with LoRA on it, on the meta device or not.
    """
    found = list(_adapters(adapted))
    beyond = [each for each in found if each.excess]
    lost = sum(each.excess * sum(each.sides) for each in beyond)
    if lost <= MUCH * sum(each.rank * sum(each.sides) for each in found):
        return None
    named = [f"{each.layer} ({each.sides[0]:,} x {each.sides[1]:,})" for each in beyond[:LISTED]]
    more = [f"{len(beyond) - LISTED:,} more"] if len(beyond) > LISTED else []
    useful = max(min(each.sides) for each in found)
    ranks = sorted({each.rank for each in beyond})
    return (
        f"LoRA of rank {', '.join(map(str, ranks))} is above the smaller side of {len(beyond):,} of {len(found):,} "
        f"layers with adapters: {', '.join([*named, *more])}. What is beyond that side takes memory and can learn "
        f"nothing more; r={useful} is the most that any of them can use"
    )


def _adapters(adapted: nn.Module) -> Iterator[_Found]:
    """Yield the pairs of matrices that are multiplied, of all adapters; those of experts lie in one tensor."""
    each: Any
    for name, each in adapted.named_modules():
        for first, second in PAIRS:
            downs, ups = each._modules.get(first), each._modules.get(second)
            for adapter in () if downs is None or ups is None else downs:
                down, up = _weight(downs[adapter]), _weight(ups[adapter])
                count = down.shape[0]  # of ranks, of all experts together
                blocks = vars(downs[adapter]).get("nblocks", 1)  # of a matrix of blocks on its diagonal (BD-LoRA)
                sides = up.shape[0], blocks * down.numel() // count
                yield _Found(base_name(f"{name}.weight").removesuffix(".weight"), each.r[adapter], sides)


def _weight(member: Tensor | nn.Linear) -> Tensor:
    """Return the matrix of a layer, or the one that is kept by itself, as those of embeddings are."""
    return member if isinstance(member, Tensor) else member.weight
