"""What a quantized base keeps in floats: how much of it, and why."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from ..core.contracts import PackedWeight, Scheme
from .adapters import bare
from .quantization.candidates import Candidate, candidates
from .quantization.layers import is_named
from .quantization.owners import owner
from .roles import Param, base_name, base_names, params

__all__ = ["Left", "Unquantized", "unquantized"]

MUCH = 0.1  # of the base's bytes
LISTED, LEAST = 3, 0.005  # kinds of weights that are named, and their least share
BY_DESIGN = {"embedding": "an embedding", "head": "the output layer", "norm": "norms", "bias": "biases"}


@dataclass(frozen=True)
class Left:
    """Weights of one kind that stay in floats.

    Args:
        name: of the parameters, with "*" where they count layers.
        nbytes: of all of them.
        why: in a few words.
        wanted: is that as hybridopt promises, or as the caller or the model asks for?
    """

    name: str
    nbytes: int
    why: str
    wanted: bool


@dataclass(frozen=True)
class Unquantized:
    """What stays in floats of a base that is quantized.

    Args:
        base: bytes of the whole base, were all of it in floats.
        parts: the largest first.
    """

    base: int
    parts: tuple[Left, ...]

    @property
    def share(self) -> float:
        """Return the share of the base's bytes that stay in floats."""
        return sum(part.nbytes for part in self.parts) / self.base

    @property
    def unwanted(self) -> float:
        """Return the share of those of them that nobody would expect there."""
        return sum(part.nbytes for part in self.parts if not part.wanted) / self.base

    @property
    def much(self) -> bool:
        """Return whether it is so much that it should be said."""
        return self.share > MUCH

    @property
    def surprising(self) -> bool:
        """Return whether so much of it is unexpected that it should be warned of."""
        return self.unwanted > MUCH

    def __str__(self) -> str:
        """Return share, names and reasons as a sentence."""
        parts = sorted(self.parts, key=lambda part: part.wanted) if self.surprising else self.parts
        large = [part for part in parts if part.nbytes >= LEAST * self.base][:LISTED]
        told = [f"{part.name} ({part.nbytes / self.base:.0%}: {part.why})" for part in large]
        more = ["others"] if len(parts) > len(told) else []
        return f"{self.share:.0%} of the base's bytes stay unquantized: {', '.join(told + more)}"

    def as_dict(self) -> dict[str, Any]:
        """Return share and parts as plain data."""
        return {"share": self.share, "base_bytes": self.base, "parts": [asdict(part) for part in self.parts]}


def unquantized(
    model: nn.Module,
    scheme: Scheme | None = None,
    names: Collection[str] = (),
    skip: Sequence[str] = (),
    parameters: Sequence[Param] | None = None,
) -> Unquantized | None:
    """Return what stays in floats of a model's base; None for a model that is not quantized.

    Args:
        model: with adapters or without, on any device.
        scheme: what `names` are going to be quantized with; None: it is quantized already.
        names: of the weights that are going to be quantized.
        skip: names of modules that the caller leaves out.
        parameters: of the model, where they are known; None: they are looked for.
    """
    base, live = bare(model), {base_name(n): p for n, p in model.named_parameters()}
    scheme = scheme or next((found for p in live.values() if (found := owner(p)) is not None), None)
    if scheme is None:
        return None
    own, known = set(base_names(model)), {base_name(c.parameter): c for c in candidates(base, scheme, skip)}
    usual = next((p.element_size() for p in live.values() if _is_plain(p)), 4)
    kinds_of = {base_name(f"{n}.{x}"): type(m).__name__ for n, m in base.named_modules() for x in m._parameters}
    stacks = any(isinstance(p, PackedWeight) for p in live.values())
    whole, kinds = 0, dict[tuple[str, str, bool], int]()
    for p in params(model) if parameters is None else parameters:
        name = base_name(p.name)
        if name not in own or name not in live:
            continue
        size = math.prod(p.shape) * _itemsize(live[name], usual)
        whole += size
        if _is_plain(live[name]) and not is_named(name, names):
            kind = _kind(name), *_why(p.role, known.get(name), kinds_of[name], bool(names) or stacks)
            kinds[kind] = kinds.get(kind, 0) + size
    parts = [Left(name, size, why, wanted) for (name, why, wanted), size in kinds.items()]
    return Unquantized(whole, tuple(sorted(parts, key=lambda part: -part.nbytes)))


def _why(role: str, candidate: Candidate | None, module: str, chosen: bool) -> tuple[str, bool]:
    """Return why a weight stays in floats, and whether that is wanted.

    Args:
        role: of the parameter.
        candidate: what is said of it where it could be quantized.
        module: the class of its module.
        chosen: were weights of all kinds quantized here, so that this one was left out on purpose?
    """
    if role in BY_DESIGN:
        return BY_DESIGN[role], True
    if candidate is None:
        return ("a convolution" if role == "conv" else f"a parameter of {module}"), False
    if candidate.why_not is not None:
        return candidate.why_not, candidate.wanted
    if chosen:
        return "left out as asked", True
    return f"not taken by what has quantized the model, from {module}", False


def _kind(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _is_plain(p: Tensor) -> bool:
    return owner(p) is None and p.is_floating_point()


def _itemsize(p: Tensor, usual: int) -> int:
    """Return the bytes of a value in floats; `usual`: where the codes do not say."""
    return p.dtype.itemsize if isinstance(p, PackedWeight) or _is_plain(p) else usual
