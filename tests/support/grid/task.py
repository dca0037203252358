"""A tiny real task for every combination of parts: the next letter of a text, read by one layer of width 64."""

from functools import cache

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F

from support.quantization import quantize_

TEXT = (  # Lincoln, Gettysburg, 1863
    "four score and seven years ago our fathers brought forth on this continent a new nation conceived in liberty "
    "and dedicated to the proposition that all men are created equal"
)
LINEAR = ("layers.0.gate", "layers.1.up", "layers.2.down")


class Reader(nn.Module):
    """Two letters' fixed embeddings, a gated layer to be trained as three numbered ones, a fixed output layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(27, 32)
        sizes = {"gate": (64, 128), "up": (64, 128), "down": (128, 64)}
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*size, bias=False)}) for name, size in sizes.items()
        )
        self.head = nn.Linear(64, 27)

    def forward(self, letters):
        gate, up, down = self.layers
        x = self.embedding(letters).flatten(-2)
        return self.head(x + down["down"](F.silu(gate["gate"](x)) * up["up"](x)))


@cache
def letters():
    """Pairs of letters and what follows: [positions, 2] and [positions]."""
    codes = torch.tensor([0 if c == " " else ord(c) - ord("a") + 1 for c in TEXT])
    return codes.unfold(0, 2, 1)[:-1], codes[2:]


def loss(model):
    """Cross-entropy over the whole text."""
    given, following = letters()
    return F.cross_entropy(model(given).float(), following)


def build(store, adapters):
    """A reader in the dtype of the store, with adapters where asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Reader()
        if store in ("bf16_stochastic", "bf16_split"):
            model.bfloat16()
        if store == "int8_trainable":
            quantize_(model, "int8-trainable", LINEAR)
        if adapters == "LoRA + nf4":
            quantize_(model, "nf4", LINEAR)
        return model if adapters == "full" else _with_lora(model)


def lora():
    """Adapters on the layers that are trained, which say something from the start."""
    return LoraConfig(r=4, target_modules=list(LINEAR), init_lora_weights=False)


def _with_lora(model):
    return get_peft_model(model, lora(), autocast_adapter_dtype=False)
