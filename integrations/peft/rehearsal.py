"""What PEFT makes of a model, and whether it comes back from a folder: tried on a copy without memory."""

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.model.roles import base_name, of_base

from . import tree
from .skeleton import filled_, without_memory

__all__ = ["CURE", "PREFIX", "cast_", "check_distinct", "check_kind", "check_saved", "check_stable", "difference"]
__all__ += ["linear_names", "plain_start", "quiet", "rehearsed", "renamed", "state"]

PREFIX = "base_model.model."  # of every name in the file of an adapter
BEYOND_A_LAYER = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "task_type")
CURE = "take another tuner, such as peft.LoraConfig(r=16, target_modules='all-linear')"
PROMPTS = (
    "PEFT loads prompt learning for inference only (some of it saves the finished prompts alone), so that training "
    "could not be resumed from what is saved"
)


def rehearsed(model: nn.Module, config: Any, adapter: str = "default") -> Any:
    """Return the PeftModel that PEFT would make, without memory, having made sure that it can be saved and loaded.

    A tuner that must read weights gets some to read, and its own tensors are then there.

    Args:
        model: any, which stays as it is.
        config: any, which stays as it is, too.
        adapter: of the adapter.

    Raises:
        HybridOptError: naming the tuner, for all that PEFT cannot do.
    """
    with quiet():
        try:
            return _take(model, config, adapter)
        except HybridOptError as error:
            try:
                with redirect_stderr(io.StringIO()):  # progress bars
                    first, second = (_take(model, config, adapter, step) for step in (0.0, 1e-3))
            except HybridOptError:
                raise error from error.__cause__
            if odd := difference(state(first, adapter), state(second, adapter)):
                raise HybridOptError(
                    f"{type(config).__name__}: PEFT makes {odd!r} as large as the values of the weights want it, so "
                    f"that it cannot be foreseen whether what is saved can be loaded; {CURE}"
                ) from error
            return first


def check_kind(config: Any) -> None:
    """Raise HybridOptError for kinds of adapters that PEFT itself cannot load for training."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    what = type(config).__name__
    if config.is_prompt_learning:
        raise HybridOptError(f"{what}: {PROMPTS}; {CURE}")
    if hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type), "update_and_allocate"):
        raise HybridOptError(
            f"{what}: its update_and_allocate() moves ranks between layers while it trains, by scores that PEFT does "
            f"not save, and saves pruned adapters, so that training could not be resumed from them; {CURE}, with "
            "rank_pattern for ranks of your own"
        )


def check_distinct(peft_model: Any) -> None:
    """Raise HybridOptError for an adapter with the name of a module or parameter, which PEFT would save with it."""
    keyed = (nn.ModuleDict, nn.ParameterDict)  # PEFT keeps the adapters of a layer in these, by name
    modules = [module for module in peft_model.modules() if not isinstance(module, keyed)]
    for name in peft_model.peft_config:
        if any(name in module._modules or name in module._parameters for module in modules):
            clash = "PEFT would mistake other tensors for the adapter's when saving; take another name"
            raise HybridOptError(f"adapter_name={name!r} is also the name of a module or parameter: {clash}")


def state(
    model: Any, adapter: str, with_embeddings: bool = False, members: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return what PEFT writes of an adapter, by the names in its file: the live tensors themselves.

    Args:
        model: with adapters.
        adapter: name of one of them.
        with_embeddings: those of the base, too?
        members: its tensors by name; None: its `state_dict`, which may need values of the base.
    """
    from peft import get_peft_model_state_dict

    members = model.state_dict(keep_vars=True) if members is None else members
    options = {"state_dict": members, "save_embedding_layers": with_embeddings}
    found = get_peft_model_state_dict(model, adapter_name=adapter, **options)
    return {f"{PREFIX}{key}": x for key, x in found.items()} if tree.is_injected(model) else found


def _members(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what the `state_dict` of a model holds, under all its names; weights at rest may lag behind."""
    for path, module in model.named_modules(remove_duplicate=False):
        kept = {n: x for n, x in module._buffers.items() if n not in module._non_persistent_buffers_set}
        for name, x in {**module._parameters, **kept}.items():
            if x is not None:
                yield f"{path}.{name}" if path else name, x


def cast_(adapted: Any, dtype: torch.dtype) -> None:
    """Bring all floating tensors of adapters that are saved into another dtype, in place; what is computed stays."""
    members = dict(_members(adapted))
    saved = {id(x) for name in adapted.peft_config for x in state(adapted, name, members=members).values()}
    for x in tree.tensors(adapted):
        if id(x) in saved and x.is_floating_point():
            x.data = x.data.to(dtype)


def linear_names(model: nn.Module) -> str:
    """Return a sentence on the names of a model's linear layers."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    listed = ", ".join(names[:4] + ["..."] * (len(names) > 4)) or "none"
    return f"its linear layers are {listed}; target_modules='all-linear' takes all but the output layer"


def check_stable(adapted: nn.Module, what: str) -> None:
    """Raise for parameters that PEFT makes anew whenever a model is walked through: no optimizer could hold them."""
    first, second = ({id(p): n for n, p in adapted.named_parameters()} for _ in range(2))
    if anew := [name for key, name in first.items() if key not in second]:
        raise HybridOptError(
            f"{what}: PEFT makes {anew[0]!r} anew at every walk through the model, and rounds the base weight at "
            "every forward pass (its LoRA on nn.MultiheadAttention merges and unmerges there), so that the frozen "
            "base would drift; leave such layers out by target_modules or exclude_modules"
        )


def _check_origin(adapted: nn.Module, origin: dict[int, str], what: str) -> None:
    """Raise unless every parameter of the base is still there, and `base_name` finds the name it had."""
    own = of_base(adapted)
    now = {base_name(n): origin.get(id(p)) for n, p in adapted.named_parameters() if own(n)}
    odd = [before or name for name, before in now.items() if name != before]
    if odd := odd or sorted(set(origin.values()) - now.keys()):
        raise HybridOptError(renamed(what, repr(odd[0])))


def renamed(what: str, name: str) -> str:
    """Return the sentence for a tuner that moves tensors of the base."""
    return (
        f"{what}: PEFT keeps {name} of the base under another name, so that what is trained could not be told from "
        f"the base and saved; {CURE}"
    )


def check_saved(adapted: Any, what: str) -> None:
    """Raise unless all that is trained beside the base is in the files that PEFT writes, as it is."""
    own = of_base(adapted)
    held = {id(x) for name in adapted.peft_config for x in state(adapted, name).values()}
    lost = [n for n, p in adapted.named_parameters() if p.requires_grad and not own(n) and id(p) not in held]
    if lost:
        raise HybridOptError(
            f"{what}: PEFT does not save {lost[0]!r} as it is trained, but what inference needs of it, so that "
            f"training could not be resumed; take options with which it saves all that is trained, or {CURE}"
        )


def difference(there: dict[str, Tensor], again: dict[str, Tensor]) -> str | None:
    """Return the first name that stands for tensors of other shapes, or on one side only; None without."""
    names = sorted(there.keys() | again.keys())
    return next((n for n in names if n not in there or n not in again or there[n].shape != again[n].shape), None)


def plain_start(config: Any) -> Any:
    """Return a copy of a configuration with nothing in it but what it does to a single layer."""
    config = _started(config)
    for name in BEYOND_A_LAYER:
        if hasattr(config, name):
            setattr(config, name, None)
    return config


def _started(config: Any) -> Any:
    """Return a copy of a configuration whose adapters start without looking at the weights."""
    config = copy.deepcopy(config)
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True
    return config


def _take(model: nn.Module, config: Any, adapter: str, step: float | None = None) -> Any:
    """Return what PEFT makes of a model without memory, or of one that is `filled_`, after all checks."""
    from peft import get_peft_model

    bare, config, what = without_memory(model), _started(config), type(config).__name__
    bare = bare if step is None else filled_(bare, step)
    origin = {id(p): n for n, p in bare.named_parameters()}
    check_kind(config)
    try:
        adapted = get_peft_model(bare, config, adapter, low_cpu_mem_usage=step is None)
        check_stable(adapted, what)
        _check_origin(adapted, origin, what)
        check_saved(adapted, what)
    except HybridOptError:
        raise
    except Exception as error:  # PEFT raises many types
        what = f"{what}(target_modules={getattr(config, 'target_modules', None)!r})"
        text = f"PEFT cannot put {what} on {type(model).__name__}: {error} ({linear_names(model)})"
        raise HybridOptError(text) from error
    return adapted


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, and leave the random state as it was."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield
