"""Parameters beside shards whose gradients nobody adds up."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..core.contracts import Named
from ..model.fsdp.sharded_tensors import is_sharded, sharded_tensors, units

__all__ = ["warning_of"]


def warning_of(trained: Iterable[Named], model: nn.Module | None = None) -> str | None:
    """Return what to say of plain parameters that are trained by gradients beside sharded ones; None without any.

    Args:
        trained: by gradients, with names.
        model: that they lie in, whose frozen parameters may be sharded; None: it is not known.
    """
    known = list(trained)
    plain = [name for name, p in known if not is_sharded(p)]
    frozen = sharded_tensors(model) if model is not None and any(units(model)) else []
    if not plain or not any(_is_cut(x) for x in (*(p for _, p in known), *frozen)):
        return None
    more = f" and {len(plain) - 1} more" * (len(plain) > 1)
    return (
        f"{plain[0]!r}{more}: trained, and not sharded as others of the model are. FSDP2 does not add up such "
        "gradients, and ranks drift apart unless you average them before each step; put adapters on before "
        "fully_shard, and leave out ignored_params for what is trained"
    )


def _is_cut(x: Tensor) -> bool:
    live: Any = x
    return is_sharded(x) and live.device_mesh.size() > 1
