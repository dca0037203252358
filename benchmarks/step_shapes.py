"""The tensors of a Llama under transformers' names, with random weights and gradients in memory that rows share."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

POOL = 1_000_003  # random numbers drawn once and repeated: to fill 8 billion weights takes a moment


@dataclass(frozen=True)
class Llama:
    """The sizes that decide every shape; `tied`: the output layer is the embedding."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by its name in transformers' LlamaForCausalLM."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for number in range(self.layers):
            found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in self._layer.items()}
        found["model.norm.weight"] = (self.hidden,)
        return found if self.tied else found | {"lm_head.weight": (self.vocab, self.hidden)}

    @property
    def _layer(self):
        wide, keys = self.hidden, self.hidden // self.heads * self.kv_heads
        return {
            "self_attn.q_proj": (wide, wide),
            "self_attn.k_proj": (keys, wide),
            "self_attn.v_proj": (keys, wide),
            "self_attn.o_proj": (wide, wide),
            "mlp.gate_proj": (self.inner, wide),
            "mlp.up_proj": (self.inner, wide),
            "mlp.down_proj": (wide, self.inner),
            "input_layernorm": (wide,),
            "post_attention_layernorm": (wide,),
        }


SETS = {
    "tiny": Llama(32, 64, 2, 2, 2, 128),
    "60m": Llama(512, 1376, 8, 8, 8, 32000),  # LLaMA-60M of GaLore's and FRUGAL's experiments
    "1b": Llama(2048, 8192, 16, 32, 8, 128256, tied=True),  # Llama-3.2-1B
    "8b": Llama(4096, 14336, 32, 32, 8, 128256),  # Llama-3-8B
    "13b": Llama(5120, 13824, 40, 40, 40, 32000),  # Llama-2-13B
    "70b": Llama(8192, 28672, 80, 64, 8, 128256),  # Llama-3-70B
}


class Weights:
    """Weights (standard deviation 0.02) and gradients (0.01) of one model; every row gets them fresh."""

    def __init__(self, llama: Llama, dtype: torch.dtype, device: str):
        self.values = {n: torch.empty(s, dtype=dtype, device=device) for n, s in llama.shapes.items()}
        self.grads = {n: torch.empty_like(value) for n, value in self.values.items()}
        generator = torch.Generator().manual_seed(0)
        self._pool = torch.randn(POOL, generator=generator).to(device)

    @property
    def numel(self) -> int:
        """Parameters of the model."""
        return sum(value.numel() for value in self.values.values())

    def fresh(self) -> dict[str, nn.Parameter]:
        """New parameters, over the old memory, with the first values and gradients again."""
        for name, value in self.values.items():
            self._fill(value, 0.02)
            self._fill(self.grads[name], 0.01)
        return {name: nn.Parameter(value) for name, value in self.values.items()}

    def give(self, params: dict[str, nn.Parameter], idle: frozenset[str] = frozenset()) -> None:
        """Set every gradient; parameters named in `idle` have none."""
        for name, p in params.items():
            p.grad = None if name in idle else self.grads[name]

    def marks(self) -> dict[str, int]:
        """A checksum of every weight, by which a change shows."""
        return {name: int(bits(value).sum(dtype=torch.int64)) for name, value in self.values.items()}

    def _fill(self, tensor: Tensor, scale: float):
        for chunk in tensor.view(-1).split(POOL):
            chunk.copy_(self._pool[: len(chunk)] * scale)


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers."""
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
