"""What a run began with beside its settings and data: weights and chat template, by digests."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError

__all__ = ["check_marks", "marks"]

ENDS = 2**20  # bytes at either end of a file of weights that are read: all of it would take minutes


def marks(folder: Path, tokenizer: Any) -> dict[str, str]:
    """Return digests of a model's weights and of the template that chats are written with.

    Of each file of weights its name, its size and both of its ends count, which other weights do not share.

    Args:
        folder: of the model.
        tokenizer: of the run.
    """
    weights = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(f"{path.name} {path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            weights.update(file.read(ENDS))
            file.seek(max(file.tell(), path.stat().st_size - ENDS), os.SEEK_SET)
            weights.update(file.read(ENDS))
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return {"weights": weights.hexdigest(), "template": template}


def check_marks(before: Mapping[str, Any], now: Mapping[str, str], model: str) -> None:
    """Raise HybridOptError where a run is to go on with other weights or another template than it began with.

    Args:
        before: what was noted then.
        now: `marks` of what there is.
        model: its name.
    """
    cures = {
        "weights": f"give the model that it began with instead of {model!r}",
        "template": "give the template that it began with",
    }
    for name, cure in cures.items():
        if name in before and before[name] != now[name]:
            raise HybridOptError(
                f"--resume: {name} of digest {now[name]} now, and the run began with {before[name]}; {cure}, "
                "or start another run: -o OUT"
            )
