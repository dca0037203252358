"""Warnings about output layers: trained without state, or not known, as parameters have no names."""

import math
from collections.abc import Collection, Iterable
from typing import Any

from ..core.contracts import Ready
from ..model.role_names import says_embedding
from ..model.roles import Param
from .plan import Entry
from .routes import Route, assign
from .treatment import Treatment

__all__ = ["state_free", "unknown"]


def state_free(entries: Collection[Entry]) -> str | None:
    """Return a warning of a language model whose output layer is trained by gradients without state; None else.

    Of a classifier's output layer, which has a row for each class and not for each word, nothing of the kind is known.
    """
    words = _words(entries)
    for entry in entries:
        treatment, p = entry.treatment, entry.param
        if entry.tag == "state-free" and treatment is not None and not treatment.probed and p.role == "head":
            if 2 * p.shape[0] >= words:  # some have a few rows more or less
                return (
                    f"the output layer {p.name!r} is state-free, which ruins training of language models (34.7 "
                    'against 20.0 perplexity in FRUGAL\'s ablation); head="full" keeps it state-full'
                )
    return None


def unknown(policy: Ready[Route], params: Iterable[Param], decays: bool) -> str | None:
    """Return a warning of parameters without names, where the policy would treat an output layer otherwise; None else.

    Args:
        policy: gives treatments by role and name.
        params: those of which nothing is known but their shapes.
        decays: is there any weight decay, from which norms and biases may be exempt?
    """
    for p in params:
        others = ("head", "embedding") if p.role == "linear" else ("norm", "bias") if p.role == "other" else ()
        twins = [Param(p.name, role, p.shape, p.dtype) for role in (p.role, *others)]
        ways = [_way(use, decays and p.role == "other") for use in (assign(policy, [twin])[p.name] for twin in twins)]
        odd = next((twin.role for twin, way in zip(twins, ways, strict=True) if way != ways[0]), None)
        if odd is not None:
            what = WORDS[odd]
            return (
                f"parameters were given without names, so nobody knows which is {what}: {p.name!r} (shape {p.shape}) "
                f"is trained as {p.role!r}, {_say(ways[0])}, and as {what} it would be {_say(_other(ways))}. Give "
                "model.named_parameters(), or take hybridopt.wrap(model)"
            )
    return None


WORDS = {"head": "the output layer", "embedding": "an embedding", "norm": "a norm", "bias": "a bias"}


def _words(entries: Iterable[Entry]) -> float:
    """Return the rows of the largest embedding, a tied one included: the words of a language model."""
    tables = (e.param for e in entries if e.param.role == "embedding" or says_embedding(e.param.name))
    return max((p.shape[0] for p in tables if len(p.shape) == 2), default=math.inf)


def _way(treatment: Treatment | None, decays: bool) -> tuple[Any, ...]:
    """Return what of a treatment a parameter of another role might have otherwise."""
    if treatment is None:
        return ("frozen",)
    shared = (treatment.tag, treatment.acting, treatment.source, treatment.lr_scale)
    return (*shared, *((treatment.weight_decay,) if decays else ()))


def _other(ways: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    first, *others = ways
    return next(way for way in others if way != first)


def _say(way: tuple[Any, ...]) -> str:
    tag, *rest = way
    rate = f" at {rest[2]:g} times the learning rate" if rest and rest[2] != 1 else ""
    decay = f" {'without' if rest[3] == 0 else 'with'} weight decay" if len(rest) > 3 else ""
    return f"{tag}{rate}{decay}"
