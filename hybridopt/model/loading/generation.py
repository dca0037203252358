"""How a model generates by default, as its folder says."""

from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError

__all__ = ["read_generation"]

FILE = "generation_config.json"


def read_generation(folder: Path) -> Any:
    """Return the GenerationConfig of a folder; None where it has none.

    Raises:
        HybridOptError: the file cannot be read as one.
    """
    if not (folder / FILE).is_file():
        return None
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many types
        raise HybridOptError(
            f"{folder / FILE} is no configuration of how a model generates ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); copy it again from where the model came from, or delete it"
        ) from error
