"""The reference that some of TRL's trainers compare a model with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hybridopt.core.patching import instead

__all__ = ["base_as_reference"]

NAME, NEW = "ref", "default"


@contextmanager
def base_as_reference(model: Any) -> Iterator[None]:
    """Within this context a trainer of TRL that is made of a PeftModel adds no copy of its adapters as a reference.

    New adapters change nothing, so the base is the same reference, and TRL takes it, with adapters switched off, where
    there is no copy. A copy could not be made of adapters that are sharded, and would take memory.

    model: any.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        yield
        return
    own = model.get_parameter
    with (
        instead(model, "add_adapter", lambda name, *_, **__: _check_name(name)),
        instead(model, "get_parameter", lambda name: own(name.replace(f".{NAME}.", f".{NEW}."))),  # copied onto itself
    ):
        yield


def _check_name(name: str) -> None:
    assert name == NAME, f"TRL adds an adapter {name!r}, which is no reference"
