"""A folder with a Llama of random bfloat16 weights, and what its weights take."""

import os
from pathlib import Path

import torch
from torch import Tensor

from hybridopt.core.files.tensors import save

from ..shared.llama import Llama
from ..shared.llama_model import config_of

SHAPES = {
    "1.2gb": Llama(1536, 4096, 24, 12, 4, 8192),  # 24 layers of 50.3 MB, 1.26 GB in all
    "small": Llama(64, 128, 4, 4, 2, 128),  # to try the benchmark itself
}
SCALE = 0.02
NAME = "model.safetensors"


def write(folder: Path, shape: Llama) -> None:
    """Write config.json and the weights; all of the file is on the disk afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape)
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    save(_weights(shape), folder / NAME, {"format": "pt"})
    with open(folder / NAME, "rb") as file:
        os.fsync(file.fileno())


def _weights(shape: Llama) -> dict[str, Tensor]:
    """Return every weight by name: drawn once for each shape, and moved on by some places from layer to layer."""
    draw = torch.Generator().manual_seed(0)
    drawn: dict[tuple[int, ...], Tensor] = {}
    found = {}
    for number, (name, size) in enumerate(shape.shapes.items()):
        if len(size) > 1 and size not in drawn:
            drawn[size] = (torch.randn(size, generator=draw) * SCALE).bfloat16()
        found[name] = drawn[size].roll(number) if len(size) > 1 else torch.ones(size, dtype=torch.bfloat16)
    return found


def layer_bytes(shape: Llama) -> int:
    """Return the bytes of a layer's weights of two dimensions: those that rest on disk."""
    sizes = [size for name, size in shape.shapes.items() if name.startswith("model.layers.0.")]
    return sum(2 * size[0] * size[1] for size in sizes if len(size) == 2)


def other_bytes(shape: Llama) -> int:
    """Return the bytes of what is always in memory: embedding, output layer, and norms."""
    return sum(2 * torch.Size(size).numel() for size in shape.shapes.values()) - shape.layers * layer_bytes(shape)


def forget(folder: Path) -> None:
    """Let the system keep nothing of the weights in its cache."""
    with open(folder / NAME, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
