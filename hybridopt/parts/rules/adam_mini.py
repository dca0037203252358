"""Adam-mini."""

from dataclasses import dataclass, replace

from torch import Tensor

from ...core.contracts import Numbers, ParameterInfo, Rule, Shape, Slot, State
from ...core.errors import HybridOptError, check_choice, check_count, check_number
from . import _betas, _blocks
from .adamw import AdamW

__all__ = ["AdamMini"]


@dataclass(frozen=True)
class AdamMini(Rule):
    """Adam with one second moment for each Hessian block (Zhang et al. 2024, Adam-mini, Alg. 1 and 3).

    Queries and keys have a block for each head, other matrices one for each output neuron (of an embedding, for each
    token), a vector is one block, and biases are left to Adam, as in the authors' package. `fit` finds the blocks.
    Splits that mix the lines of a head are refused, and so are single entries (randk).

    heads, kv_heads: in place of the model's own; where there is no model to ask, queries and keys are taken neuron by
    neuron unless heads is given, and kv_heads is the same if it is not. value_blocks: "neuron", or "whole" (one
    block), which the authors advise below some 10k steps. axis, blocks, groups: given, they replace what `fit` finds:
    ((blocks, lines of each), ...) along the "rows" or "columns", all of it `groups` times over; () is line by line.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    heads: int | None = None
    kv_heads: int | None = None
    value_blocks: str = "neuron"
    axis: str = "rows"
    blocks: _blocks.Blocks = ()
    groups: int = 1
    looks = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _betas.check("AdamMini", self.betas))
        object.__setattr__(self, "blocks", _blocks.check("AdamMini", self.blocks))
        check_number("AdamMini", "eps", self.eps, 0)
        check_choice("AdamMini", "value_blocks", self.value_blocks, ("neuron", "whole"))
        check_choice("AdamMini", "axis", self.axis, ("rows", "columns"))
        for name, value in {"heads": self.heads, "kv_heads": self.kv_heads, "groups": self.groups}.items():
            if value is not None:
                check_count("AdamMini", name, value, 1, 2**31)

    def fit(self, param: ParameterInfo) -> Rule:
        """Return the rule for one parameter by role and Hessian blocks; HybridOptError for heads that do not fit."""
        if (self.axis, self.blocks, self.groups) != ("rows", (), 1):
            return self
        last, where = param.name.rpartition(".")[2], param.partition
        if last.startswith("bias") or last.endswith("_bias"):
            return AdamW(self.betas, self.eps)
        if param.role == "adapter" or len(param.shape) < 2:
            return self
        blocks = tuple(self._part(param, *part) for part in where.parts)
        if all(lines == 1 for _, lines in blocks):
            return replace(self, axis=where.axis)
        return replace(self, axis=where.axis, blocks=blocks, groups=where.groups)

    def slots(self, shape: Shape) -> dict[str, Slot]:
        """Declare the first moment, 4 bytes an element, and the second, 4 bytes a block: [..., blocks]."""
        if len(shape) < 2:
            raise HybridOptError(
                f"single entries (shape {shape}) belong to no block of the weight; take split='columns', "
                "'rows' or 'block', or full='adamw'",
                "AdamMini",
            )
        *lead, rows, columns = shape
        blocks = (*lead, self._total(rows if self.axis == "rows" else columns))
        return {"exp_avg": Slot(tuple(shape)), "exp_avg_sq": Slot(blocks, signed=False, exact=True, settled=True)}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the bias corrections 1 - b1**step and sqrt(1 - b2**step)."""
        b1, b2 = self.betas
        return {"bias1": 1 - b1**step, "bias2": (1 - b2**step) ** 0.5}

    def look(self, i: int, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> tuple[State, State]:
        """Find the mean square of each row; or of each column the sum of squares, and of how many.

        Args:
            i: 0.
            grad: rows of the gradient, [..., rows, n].
            state: not read.
            param: not read.
            now: not read.
        """
        if self.axis == "rows":
            return {"squares": grad.square().mean(-1, keepdim=True)}, {}
        many = grad.new_full((*grad.shape[:-2], 1, 1), grad.shape[-2])
        return {}, {"squares": grad.square().sum(-2, keepdim=True), "rows": many}

    def settle(self, i: int, rows: State, sums: State, state: State, now: Numbers) -> tuple[State, State]:
        """Move v <- b2 v + (1 - b2) mean(g^2) by blocks; return 1 / (bias1 (sqrt(v_hat) + eps)) by lines.

        Args:
            i: 0.
            rows: "squares", [..., m, 1], where blocks are of rows.
            sums: "squares", [..., 1, n], and their number, "rows", where blocks are of columns.
            state: v, "exp_avg_sq", [..., blocks]; moved in place.
            now: "bias1" and "bias2".
        """
        b2, v, by_rows = self.betas[1], state["exp_avg_sq"], self.axis == "rows"
        squares = rows["squares"].squeeze(-1) if by_rows else (sums["squares"] / sums["rows"]).squeeze(-2)
        if self.blocks:
            squares = _blocks.means(squares, self.blocks, self.groups)
        v.mul_(b2).add_(squares, alpha=1 - b2)
        factor = (v.sqrt() / now["bias2"]).add_(self.eps).mul_(now["bias1"]).reciprocal_()
        if self.blocks:
            factor = _blocks.spread(factor, self.blocks, self.groups)
        return ({"factor": factor.unsqueeze(-1)}, {}) if by_rows else ({}, {"factor": factor.unsqueeze(-2)})

    def update(self, grad: Tensor, state: State, param: Tensor | None, now: Numbers) -> Tensor:
        """Return m_hat / (sqrt(v_hat) + eps), shape of `grad`.

        Args:
            grad: g, [..., rows, n].
            state: m, "exp_avg", of the same shape; moved in place.
            param: not read.
            now: "factor", [..., rows, 1] or [..., 1, n].
        """
        return state["exp_avg"].lerp_(grad, 1 - self.betas[0]) * now["factor"]

    def _part(self, param: ParameterInfo, kind: str, count: int, lines: int) -> tuple[int, int]:
        """Return (blocks, lines of each) of a part of the parameter, with the heads that were asked for."""
        if kind == "value" and self.value_blocks == "whole":
            return 1, count * lines
        same = self.heads if lines == 1 else None  # nothing known of the keys
        option = "kv_heads" if kind == "key" and self.kv_heads else "heads"
        heads = {"query": self.heads, "key": self.kv_heads or same}.get(kind)
        if heads is None:
            return count, lines
        groups = param.partition.groups
        neurons = count * lines * groups
        if heads % groups or neurons % heads:
            raise HybridOptError(
                f"{option}={heads} does not fit parameter {param.name!r} (role {param.role!r}, shape "
                f"{param.shape}), a {kind} with {neurons} output neurons{f' in {groups} groups' * (groups > 1)}; give "
                "the model's own number, or leave it out: wrap finds it in the model",
                "AdamMini",
            )
        return heads // groups, neurons // heads

    def _total(self, lines: int) -> int:
        """Return how many blocks `lines` make; HybridOptError if they are not those that the blocks are made of."""
        if not self.blocks:
            return lines
        if lines != (own := _blocks.covered(self.blocks, self.groups)):
            whole = "columns" if self.axis == "rows" else "rows"
            raise HybridOptError(
                f"its blocks {self.blocks} x {self.groups} cover {own} {self.axis}, and there are {lines}: "
                f"a split must leave the {self.axis} whole where they belong to heads. Take split={whole!r} or "
                "'block', or full='adamw'",
                "AdamMini",
            )
        return _blocks.total(self.blocks, self.groups)
