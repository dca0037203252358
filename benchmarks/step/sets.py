"""The sets of shapes that steps are measured on, and which rows of each are measured where none are named."""

from dataclasses import dataclass

from ..shared.llama import SETS as LLAMAS
from ..shared.llama import Llama

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adapters:
    """The LoRA matrices of a Llama's layers, under PEFT's names.

    layers, rank: how many, and of what rank. hidden, inner, keys: the widths of the layers. heads, kv_heads: what
    Adam-mini asks for.
    """

    layers: int = 25
    rank: int = 16
    hidden: int = 1024
    inner: int = 4096
    keys: int = 256
    heads: int = 16
    kv_heads: int = 4

    @property
    def shapes(self) -> Shapes:
        """Return the shape of every matrix by its name."""
        found: Shapes = {}
        for number in range(self.layers):
            for layer, (out, wide) in self._adapted.items():
                name = f"base_model.model.model.layers.{number}.{layer}"
                found[f"{name}.lora_A.default.weight"] = (self.rank, wide)
                found[f"{name}.lora_B.default.weight"] = (out, self.rank)
        return found

    @property
    def _adapted(self):
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.keys, self.hidden),
            "self_attn.v_proj": (self.keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }


@dataclass(frozen=True)
class Experts:
    """The stacks of experts of a mixture's layers, under the names of transformers.

    layers, experts: how many. hidden, inner: the widths of an expert. heads, kv_heads: what Adam-mini asks for.
    """

    layers: int = 4
    experts: int = 8
    hidden: int = 512
    inner: int = 1376
    heads: int = 8
    kv_heads: int = 8

    @property
    def shapes(self) -> Shapes:
        """Return the shape of every stack by its name."""
        found: Shapes = {}
        for number in range(self.layers):
            name = f"model.layers.{number}.mlp.experts"
            found[f"{name}.gate_up_proj"] = (self.experts, 2 * self.inner, self.hidden)
            found[f"{name}.down_proj"] = (self.experts, self.hidden, self.inner)
        return found


Model = Llama | Adapters | Experts
SETS: dict[str, Model] = {
    **LLAMAS,
    "adapters": Adapters(),  # 300 tensors of 4,096 to 65,536 elements
    "experts": Experts(),  # 8 stacks of 8 matrices, 68 M elements
    "python": Llama(32, 64, 8, 2, 2, 128),  # 75 tensors so small that a step is Python and calls
}
FEW = "torch.adamw-fused|hybridopt.adamw|hybridopt.signsgd|hybridopt.frugal-0|hybridopt.frugal"
ROWS = {  # the ones that decide
    "adapters": FEW,
    "experts": f"{FEW}|hybridopt.adam_mini|hybridopt.adalomo|hybridopt.adafactor|hybridopt.adamw-int8",
    "python": f"{FEW}|hybridopt.lion|hybridopt.adam_mini|hybridopt.adalomo|hybridopt.adamw-int8",
    "500m": f"{FEW}|hybridopt.lion|hybridopt.adam_mini|hybridopt.adalomo|hybridopt.adamw-int8",
}


def patterns(only: str | None, size: str) -> str:
    """Return the patterns of row names: what was asked for, else those of the set."""
    return only or ROWS.get(size, "*")
