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


Model = Llama | Adapters
SETS: dict[str, Model] = {
    **LLAMAS,
    "adapters": Adapters(),  # 300 tensors of 4,096 to 65,536 elements
    "python": Llama(32, 64, 8, 2, 2, 128),  # 75 tensors so small that a step is Python and calls
}
FEW = "torch.adamw-fused|hybridopt.adamw|hybridopt.signsgd|hybridopt.frugal-0|hybridopt.frugal"
ROWS = {  # the ones that decide
    "adapters": FEW,
    "python": f"{FEW}|hybridopt.lion|hybridopt.adam_mini|hybridopt.adalomo|hybridopt.adamw-int8",
    "500m": f"{FEW}|hybridopt.lion|hybridopt.adam_mini|hybridopt.adalomo|hybridopt.adamw-int8",
}


def patterns(only: str | None, size: str) -> str:
    """Return the patterns of row names: what was asked for, else those of the set."""
    return only or ROWS.get(size, "*")
