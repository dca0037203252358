"""The config.json of a model on the Hugging Face hub; nothing else of it is read, and no code of it is run."""

import re
from pathlib import Path

from ...core.errors import HybridOptError

__all__ = ["hub_config", "is_hub_name"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE = "config.json"
SECONDS, SHORT = 5, 2  # to wait for an answer
CACHED, LOADED = "its config.json in the hub's cache", "its config.json, downloaded from the hub"


def is_hub_name(name: str) -> bool:
    """Return whether a name could be one of the hub: an organisation, a slash, a model."""
    return NAME.fullmatch(name) is not None


def hub_config(name: str, shipped: bool = False) -> tuple[Path, str]:
    """Return the path of a model's config.json in the local cache, and whether it was there or was downloaded now.

    Args:
        name: of the model.
        shipped: whether its dimensions are known here, too, so that nobody should wait for long.

    Raises:
        HybridOptError: it is neither in the cache nor to be had, with the reason and what else could be given.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    seconds = SHORT if shipped else SECONDS
    try:
        cached = try_to_load_from_cache(name, FILE)
        if isinstance(cached, str):
            return Path(cached), CACHED
        get_hf_file_metadata(hf_hub_url(name, FILE), timeout=seconds)  # which does not try again for half a minute
        return Path(hf_hub_download(name, FILE, etag_timeout=seconds)), LOADED
    except Exception as error:  # of the hub's library, of the one below it, and of the system
        why = " ".join(str(error).split())[:200]
        raise HybridOptError(
            f"model={name!r} is no known architecture, and its config.json is neither in the hub's cache nor to be "
            f"had ({type(error).__name__}: {why}); see that the name is right and the network is there, log in "
            "where the model asks for it (hf auth login), or give the path of its config.json"
        ) from error
