"""Whether a model has weights that can be read, and are its own, asked before anything is loaded."""

import copy
from pathlib import Path
from typing import Any

import torch

from ....core.errors import HybridOptError
from ....model.loading.building import build
from ....model.loading.matching import match
from ....model.loading.new_head import check_with_head
from ....model.loading.weight_files import INDEX, WHOLE, stored

__all__ = ["check_matching", "check_weights"]

SECONDS = 5  # to wait for an answer of the hub


def check_weights(model: str) -> None:
    """Look at the headers of a folder's weights; of a model on the hub, for the names of their files.

    Where the hub does not answer nothing is said: the weights may be fetched later.

    Args:
        model: a folder, or a name on the hub.

    Raises:
        HybridOptError: there are none in safetensors, or a file is damaged or cut off.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        stored(folder)
    elif not any(_there(model, file) for file in (WHOLE, INDEX)):
        raise HybridOptError(
            f"model={model!r}: the hub has no {WHOLE} and no {INDEX} of it, and weights in other files (*.bin) are "
            "not loaded, as they could run code; take a model that has them, or save it so yourself "
            "(AutoModel...from_pretrained, then save_pretrained) and give that folder"
        )


def check_matching(model: str, config: Any, head: str = "causal") -> None:
    """Raise HybridOptError where the weights in a folder are not those of the model that its config.json describes.

    Args:
        model: a folder; of one on the hub nothing is known yet.
        config: of transformers: as it was read for "causal", else with the task's output layer.
        head: the output layer that the task asks for: "causal", "classes" or "score".
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return
    if head == "causal":
        match(build(copy.deepcopy(config), folder, None, torch.float32), stored(folder))
    else:
        check_with_head(folder, config)


def _there(model: str, file: str) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    try:
        if not isinstance(try_to_load_from_cache(model, file), str):
            get_hf_file_metadata(hf_hub_url(model, file), timeout=SECONDS)
    except EntryNotFoundError:
        return False
    except Exception:  # of the hub's library, of the one below it, and of the system
        return True
    return True
