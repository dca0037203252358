"""Refuse settings of a transformers `Trainer` that spread over several devices what is for one."""

from collections.abc import Iterator

from transformers import Trainer

from hybridopt.core.errors import HybridOptError
from hybridopt.model.activations.refusals import REPLICATED
from hybridopt.model.placement.placed import placed

__all__ = ["check_not_replicated", "check_placed"]


def check_placed(trainer: Trainer) -> None:
    """Raise HybridOptError if a trainer of a placed model is to spread it; name what does so.

    trainer: before anything is trained.
    """
    there = placed(trainer.model)
    why = next((why for found, why in _obstacles(trainer) if found), None)
    if there is not None and why is not None:
        raise HybridOptError(
            f"the layers of the model rest elsewhere (placement={there.placement.base!r}), for one device, and {why}; "
            "leave that out, or placement",
            "placement",
        )


def check_not_replicated(trainer: Trainer) -> None:
    """Raise HybridOptError if a trainer is to copy a model whose inputs are kept in part to several GPUs."""
    hybrid = vars(trainer.model).get("hybrid")
    if hybrid is not None and hybrid.activations is not None and trainer.args.n_gpu > 1:
        raise HybridOptError(REPLICATED)


def _obstacles(trainer: Trainer) -> Iterator[tuple[bool, str]]:
    args = trainer.args
    yield trainer.is_deepspeed_enabled, "DeepSpeed keeps the weights to itself"
    yield trainer.is_fsdp_enabled, "FSDP holds but a part of each weight"
    yield args.world_size > 1, f"DistributedDataParallel gives each of {args.world_size} processes a whole copy"
    yield args.n_gpu > 1, f"DataParallel copies it to {args.n_gpu} GPUs (CUDA_VISIBLE_DEVICES=0 leaves one)"
