"""The shapes of Llamas under transformers' names."""

from dataclasses import dataclass, replace


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
        """Return the shape of every parameter by its name in transformers' LlamaForCausalLM."""
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


LLAMA_3_8B = Llama(4096, 14336, 32, 32, 8, 128256)
LLAMA_3_70B = Llama(8192, 28672, 80, 64, 8, 128256)
SETS = {
    "tiny": Llama(32, 64, 2, 2, 2, 128),
    "small": Llama(128, 512, 2, 4, 2, 512),  # its matrices have all sizes that updates tell apart
    "60m": Llama(512, 1376, 8, 8, 8, 32000),  # LLaMA-60M of GaLore's and FRUGAL's experiments
    "500m": Llama(1280, 3456, 21, 20, 20, 32000),
    "1b": Llama(2048, 8192, 16, 32, 8, 128256, tied=True),  # Llama-3.2-1B
    "8b": LLAMA_3_8B,
    "8b-2": replace(LLAMA_3_8B, layers=2),
    "8b-8": replace(LLAMA_3_8B, layers=8),
    "13b": Llama(5120, 13824, 40, 40, 40, 32000),  # Llama-2-13B
    "70b": LLAMA_3_70B,
    "70b-32": replace(LLAMA_3_70B, layers=32),
    "tiny-6": Llama(128, 256, 6, 4, 2, 512),  # layers enough to be placed
}
