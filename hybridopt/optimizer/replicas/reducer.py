"""The reducer of DistributedDataParallel, which has a buffer for the gradients that it averages: made anew for others.

It is made as torch makes it when a DDP module is unpickled, of the parameters that are named then.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ...core.errors import HybridOptError

__all__ = ["averaged_by", "check", "drop", "remake", "whole_at_first"]

Hook = Callable[[Any, Any], Any]  # torch's communication hook: (state, bucket) to a Future
REDUCED = "its mixed_precision puts other tensors in the places of weights: take torch.autocast instead"
DELAYED = "its delay_all_reduce_named_params have buffers of their own: leave them out"
COMPILED = "its reducer is compiled (torch._dynamo.config.optimize_ddp = 'python_reducer'): take the default"
BUILT_IN = "its built-in communication hook is known to C++ alone: take register_comm_hook with fp16_compress_hook"
JOINED = "other parameters would be averaged now within its join(): give all ranks as many batches, and leave it out"
PRIVATE = (  # of DDP and its reducer; torch may change them
    "_build_debug_param_to_name_mapping _build_params_for_reducer _comm_hooks _ddp_init_helper "
    "_delay_all_reduce_params _join_config _module_parameters _push_all_rebuilt_params _rebuild_buckets "
    "_set_optimizer_in_backward _set_static_graph _use_python_reducer get_backward_stats"
)


def averaged_by(ddp: Any) -> int:
    """Return how many parameters the reducer of a DDP module averages."""
    try:
        return len(ddp.reducer.get_backward_stats())
    except AttributeError:
        _check_torch(ddp)
        raise


def check(ddp: Any, why: str, alone: bool) -> None:
    """Raise HybridOptError for a DDP module whose reducer cannot be made anew.

    Args:
        ddp: the DDP module.
        why: what for it would have to be.
        alone: may other ranks have no batch left then? Within DDP's join() they would not take part.
    """
    _check_torch(ddp)
    registered = ddp.logger._get_ddp_logging_data().strs_map.get("comm_hook", "")
    for found, cure in (
        (ddp.mixed_precision is not None, REDUCED),
        (bool(ddp._delay_all_reduce_params), DELAYED),
        (ddp._use_python_reducer, COMPILED),
        (registered.startswith("BuiltinCommHookType"), BUILT_IN),
        (alone and ddp._join_config.enable, JOINED),
    ):
        if found:
            raise HybridOptError(f"DistributedDataParallel cannot be told {why}, as {cure}")


def _check_torch(ddp: Any) -> None:
    if missing := set(PRIVATE.split()).difference(dir(ddp), dir(ddp.reducer)):
        raise HybridOptError(
            f"DistributedDataParallel of torch {torch.__version__} has no {min(missing)!r}, which tells what it is to "
            "average: take torch 2.13, or a newer hybridopt"
        )


def drop(ddp: Any) -> None:
    """Take the reducer away, so that its buffers are freed before there are new ones."""
    ddp.reducer = ddp.logger = None


def remake(ddp: Any, left_out: Collection[Tensor], views: bool, hook: Hook | None = None) -> list[Tensor]:
    """Give a DDP module a reducer of what requires a gradient, in small buckets from the first pass on.

    All ranks have to call this, as they agree on the buckets. Hooks that users have registered go on, but for `hook`.

    Args:
        ddp: the DDP module, between two of its backward passes.
        left_out: parameters that are not averaged, though they require a gradient.
        views: are gradients views of the buckets afterwards, as gradient_as_bucket_view=True has it?
        hook: reduces the buckets, and uses the gradients: DDP leaves `.grad` to it. None: users' hooks, or DDP itself.

    Returns:
        The parameters that it averages.
    """
    kept, theirs = ddp.parameters_to_ignore, ddp.gradient_as_bucket_view
    names = [n for n, p in ddp.module.named_parameters(remove_duplicate=False) if any(p is x for x in left_out)]
    ddp.parameters_to_ignore = {*kept, *names, *(f".{n}" for n in names)}  # torch has a "." before names of the root
    ddp.gradient_as_bucket_view = views
    try:
        params, sparse = ddp._build_params_for_reducer()
        known = ddp._build_debug_param_to_name_mapping(params)
        params.reverse()  # about the order in which gradients come
        sparse.reverse()
        drop(ddp)
        ddp._ddp_init_helper(params, sparse, {len(params) - 1 - i: n for i, n in known.items()}, ddp.static_graph)
    finally:
        ddp.parameters_to_ignore, ddp.gradient_as_bucket_view = kept, theirs
    if ddp.static_graph:
        ddp._static_graph_delay_allreduce_enqueued = False
        ddp.reducer._set_static_graph()
        ddp.logger._set_static_graph()
    elif not whole_at_first(ddp):
        ddp.reducer._push_all_rebuilt_params()
        ddp.reducer._rebuild_buckets()
    _register(ddp, hook)
    return list(params)


def whole_at_first(ddp: Any) -> bool:
    """Return whether buckets are made of what the first pass shows, or may stay without a gradient in some pass."""
    return bool(ddp.static_graph or ddp.find_unused_parameters)


def _register(ddp, hook):
    if hook is None:
        theirs, ddp._comm_hooks = ddp._comm_hooks, []
        for their, state in theirs:
            ddp.register_comm_hook(state, their)
        return
    own = list(ddp._comm_hooks)
    ddp.register_comm_hook(None, hook)
    ddp._comm_hooks = own
    ddp.reducer._set_optimizer_in_backward()
