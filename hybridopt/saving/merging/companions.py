"""The files of a model folder beside its weights: configuration, generation, tokenizer and chat template."""

import shutil
from pathlib import Path
from typing import Any

import torch

from ..folder import Folder
from ..model_config import write_config

__all__ = ["write_companions"]

COPIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "chat_template*",
    "*processor*_config.json",
    "processor_config.json",
    "LICENSE*",
    "NOTICE*",
)


def write_companions(model: Any, base: Path, saved: Folder, out: Path, dtype: torch.dtype, untied: bool) -> None:
    """Write config.json for the merged model, and copy what lies beside weights from the base and the saved folder.

    Files in the saved folder win, as a tokenizer may have got new tokens. No code is copied, and no link is followed
    out of a folder.

    Args:
        model: without memory, whose configuration is written.
        base: the folder of the base model.
        saved: the saved folder.
        out: where to write.
        dtype: of the merged weights.
        untied: are embeddings no longer tied?
    """
    for folder in (base, saved.directory):
        for pattern in COPIED:
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and not path.name.startswith("."):
                    shutil.copyfile(path, out / path.name)
    write_config(model, out, dtype, untied)
