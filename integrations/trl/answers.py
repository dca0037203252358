"""Let sharded models write answers."""

from typing import Any

from hybridopt.model.adapters import bare
from hybridopt.model.fsdp.sharded_tensors import sharded_tensors

__all__ = ["let_answer_"]


def let_answer_(model: Any) -> None:
    """Let `model.generate` of a model that is sharded by `fully_shard` gather its layers; any other stays as it is.

    All ranks go on until the longest of their answers is complete, as each pass gathers layers of all of them.

    model: with adapters or without.
    """
    if not sharded_tensors(model):
        return
    from torch.distributed.fsdp import register_fsdp_forward_method

    register_fsdp_forward_method(model, "generate")  # it calls what lies below a PeftModel, which is what was sharded
    causal: Any = bare(model)
    causal._is_fsdp_managed_module = True  # how transformers knows that ranks have to keep step
