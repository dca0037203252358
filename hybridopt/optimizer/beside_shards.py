"""Parameters beside shards whose gradients nobody adds up."""

from collections.abc import Iterable
from typing import Any

from ..core.contracts import Named
from ..model.sharding import is_sharded

__all__ = ["warning_of"]


def warning_of(trained: Iterable[Named]) -> str | None:
    """Return what to say of plain parameters that are trained by gradients beside sharded ones; None without any.

    trained: by gradients, with names.
    """
    known: list[tuple[str, Any]] = list(trained)
    plain = [name for name, p in known if not is_sharded(p)]
    if not plain or not any(is_sharded(p) and p.device_mesh.size() > 1 for _, p in known):
        return None
    more = f" and {len(plain) - 1} more" * (len(plain) > 1)
    return (
        f"{plain[0]!r}{more}: trained, and not sharded as others are. FSDP2 does not add up such gradients, and ranks "
        "drift apart unless you average them before each step; put adapters on before fully_shard, leave out "
        "ignored_params for what is trained, and take DDP for quantization='int8-trainable'"
    )
