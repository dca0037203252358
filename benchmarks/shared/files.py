"""Files that are published whole or not at all."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Publish `text` at `path` in one move: a process that is stopped meanwhile leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
