"""Adapters, by PEFT: a dry run before anything is changed, then attach, save and load."""

import copy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import plain_json, tensors

from ..bitsandbytes.layers import is_quantized_parameter, scheme_of
from .skeleton import without_memory

__all__ = ["active_adapters", "adapter_names", "attach", "check", "check_saved", "is_peft_model", "kept_modules"]
__all__ += ["load_adapters", "preview", "save_adapters", "saved_tensor_names"]

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
INITS = (True, False, "gaussian", "eva")
DENSE_INITS = ("orthogonal", "mica", "olora", "pissa")  # these read the weight of a full-precision layer


def check(model: nn.Module, peft_config, adapter_name: str = "default", quantization: str | None = None) -> list[str]:
    """Names of the modules and parameters that the adapter would be put on; raises where `attach` could not do it.

    PEFT itself is run on a copy without memory, so its own rules count; `model` is unchanged. `quantization` is the
    scheme about to be applied to the model, if any.
    """
    _check_request(model, peft_config, adapter_name)
    is_int8 = "int8" in f"{quantization} {scheme_of(model)}"
    on_cpu = any(p.device.type == "cpu" for p in model.parameters())
    if is_int8 and on_cpu and getattr(peft_config, "use_dora", False):
        raise HybridOptError(
            "use_dora=True with int8 weights on the CPU: PEFT's DoRA loses the scales of the base weight in the first "
            "forward pass, and the second fails; take quantization='nf4', or use_dora=False"
        )
    trial = preview(model, peft_config, adapter_name)
    parameters = trial.base_model.targeted_parameter_names
    _check_distinct(trial)
    is_quantized = quantization is not None or any(map(is_quantized_parameter, model.parameters()))
    _check_init(peft_config, is_quantized or bool(parameters))
    _check_kept(model, peft_config, _wrapped(trial))
    return [*trial.base_model.targeted_module_names, *parameters]


def preview(model: nn.Module, peft_config, adapter_name: str = "default") -> nn.Module:
    """The PeftModel that `attach` would make, but `without_memory`; raises with PEFT's reason where PEFT cannot."""
    from peft import get_peft_model

    config = copy.deepcopy(peft_config)
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True  # the others compute with the weights, which have no values here
    skeleton = without_memory(model)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            return get_peft_model(skeleton, config, adapter_name, low_cpu_mem_usage=True)
        except Exception as error:  # PEFT raises many types
            what = f"{type(peft_config).__name__}(target_modules={getattr(peft_config, 'target_modules', None)!r})"
            text = f"PEFT cannot put {what} on {type(model).__name__}: {error} ({_linear(model)})"
            raise HybridOptError(text) from error


def kept_modules(model: nn.Module, peft_config, adapter_name: str = "default") -> list[str]:
    """Names of the modules that the config trains as a whole (`modules_to_save`): they must not be quantized."""
    return _wrapped(preview(model, peft_config, adapter_name))


def attach(model: nn.Module, peft_config, adapter_name: str = "default") -> nn.Module:
    """The PeftModel that PEFT makes of `model`, in place; call `check` before. The caller's config stays as it is."""
    from peft import get_peft_model

    return get_peft_model(model, copy.deepcopy(peft_config), adapter_name)


def is_peft_model(model: nn.Module) -> bool:
    """Whether `model` is a PeftModel."""
    library = sys.modules.get("peft")
    return library is not None and isinstance(model, library.PeftModel)


def adapter_names(model: nn.Module) -> list[str]:
    """Names of all adapters of a PeftModel, in the order they were added; none for other models."""
    return list(model.peft_config) if is_peft_model(model) else []


def active_adapters(model: nn.Module) -> list[str]:
    """Names of the adapters of a PeftModel that are switched on; none for other models."""
    return list(model.active_adapters) if is_peft_model(model) else []


def save_adapters(model: nn.Module, folder: str | Path) -> list[str]:
    """Write every adapter as PEFT does and return the files' names, relative to `folder`.

    The adapter "default" lies in the folder itself, others in subfolders of their name. Base embeddings are never
    written, though PEFT would add those that an adapter targets or that were resized: they are no part of the adapter.
    """
    _check_distinct(model)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    files = [str(_folder(name) / file) for name in adapter_names(model) for file in (CONFIG, WEIGHTS)]
    return [CARD, *files]


def saved_tensor_names(model: nn.Module, folder: str | Path) -> set[str]:
    """Names in `model.state_dict()` of all that the adapter files in `folder` hold.

    Beside adapters these are the copies of `modules_to_save`, and base biases with bias="all" or "lora_only".
    """
    held = {}
    for adapter in adapter_names(model):
        saved = _saved_shapes(Path(folder) / _folder(adapter))
        held |= {id(tensor): tensor for key, tensor in _adapter_state(model, adapter).items() if key in saved}
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in held}


def check_saved(base: nn.Module, folder: str | Path, names: Sequence[str], active=()) -> dict[str, Path]:
    """Where each adapter lies; raises for whatever `load_adapters` could not load, and changes nothing."""
    if not names or len(set(names)) < len(names) or not set(active) <= set(names):
        raise HybridOptError(f"active={list(active)} must be among the adapters named, {list(names)}")
    folders = {name: Path(folder) / _folder(name) for name in names}
    for name in names:
        _check_fits(base, name, folders[name])
    return folders


def load_adapters(base: nn.Module, folder: str | Path, names: Sequence[str], is_trainable=True, active=()):
    """The PeftModel of `base` with the named adapters that `save_adapters` wrote, switched to `active` (or the first).

    Raises before `base` is changed if a file is missing or does not fit the model; only safetensors files are read.
    Only the active adapters are trainable then (none with is_trainable=False).
    """
    from peft import PeftModel

    folders = check_saved(base, folder, names, active)
    options = {"is_trainable": is_trainable, "torch_device": "cpu"}
    model = PeftModel.from_pretrained(base, str(folders[names[0]]), adapter_name=names[0], **options)
    for name in names[1:]:
        model.load_adapter(str(folders[name]), name, **options)
    active = list(active or names[:1])
    model.set_requires_grad(list(names), False)  # set_adapter forgets the modules_to_save of adapters loaded before
    model.set_adapter(active[0], inference_mode=not is_trainable)
    if len(active) > 1:
        model.base_model.set_adapter(active, inference_mode=not is_trainable)
    return model


def _check_request(model: nn.Module, peft_config, adapter_name: str) -> None:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(peft_config, PeftConfig):
        cure = "take for example peft.LoraConfig(r=16, target_modules='all-linear')"
        raise HybridOptError(f"peft_config={peft_config!r} is no PEFT config; {cure}")
    if peft_config.is_prompt_learning:
        raise HybridOptError(f"{type(peft_config).__name__}: PEFT cannot load prompt learning for training; take LoRA")
    if not isinstance(adapter_name, str) or not adapter_name or set(adapter_name) & set("./\\"):
        raise HybridOptError(f"adapter_name={adapter_name!r}: it must be a name without dots and slashes")
    if is_peft_model(model) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        cure = "add another with model.add_adapter(name, config), or wrap the model without peft_config"
        raise HybridOptError(f"peft_config: the model already has adapters; {cure}")


def _check_distinct(peft_model: nn.Module) -> None:
    keyed = (nn.ModuleDict, nn.ParameterDict)  # PEFT keeps the adapters of a layer in these, by name
    modules = [module for module in peft_model.modules() if not isinstance(module, keyed)]
    for name in peft_model.peft_config:
        if any(name in module._modules or name in module._parameters for module in modules):
            clash = "PEFT would mistake other tensors for the adapter's when saving; take another name"
            raise HybridOptError(f"adapter_name={name!r} is also the name of a module or parameter: {clash}")


def _check_init(peft_config, is_plain_only: bool) -> None:
    init = getattr(peft_config, "init_lora_weights", True)
    if init in INITS or (init in DENSE_INITS and not is_plain_only):
        return
    allowed = INITS if is_plain_only else (*INITS, *DENSE_INITS)
    reason = "it is random in the base or needs its own preparation, so the adapter could not be loaded again"
    if init in DENSE_INITS:
        reason = "it reads full-precision linear weights, but a target is quantized or no linear layer"
    raise HybridOptError(f"init_lora_weights={init!r}: {reason}; allowed here are {', '.join(map(repr, allowed))}")


def _check_kept(model: nn.Module, peft_config, names: list[str]) -> None:
    for given in getattr(peft_config, "modules_to_save", None) or ():
        if not any(name.endswith(given) for name in names):
            raise HybridOptError(f"modules_to_save: the model has no module {given!r}; {_linear(model)}")
    for name in names:
        if any(map(is_quantized_parameter, model.get_submodule(name).parameters())):
            cure = f"load it unquantized (BitsAndBytesConfig(llm_int8_skip_modules=[{name!r}])) or use LoRA on it"
            raise HybridOptError(f"modules_to_save: {name} is quantized and cannot be trained; {cure}")


def _saved_config(path: Path):
    from peft import PeftConfig

    plain_json.read(path, "adapter configuration")
    try:
        return PeftConfig.from_pretrained(str(path.parent))
    except Exception as error:  # PEFT raises many types
        raise HybridOptError(f"{path} is no adapter configuration that PEFT reads: {error!r}") from error


def _check_fits(base: nn.Module, name: str, folder: Path) -> None:
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise HybridOptError(f"adapter {name!r}: {folder} has no {' and no '.join(missing)}")
    config = _saved_config(folder / CONFIG)
    _check_request(base, config, name)
    saved = _saved_shapes(folder)
    expected = {k: list(v.shape) for k, v in _adapter_state(preview(base, config, name), name).items()}
    for key in sorted(saved.keys() | expected.keys()):
        if saved.get(key) != expected.get(key):
            raise HybridOptError(
                f"adapter {name!r}: {key} has shape {saved.get(key)} in {folder / WEIGHTS} and {expected.get(key)} in "
                "this model (None: absent); load it onto the base that it was trained on"
            )


def _adapter_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    state = model.state_dict(keep_vars=True)
    return get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)


def _saved_shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    tensors.names(folder / WEIGHTS, "the adapter")  # raises for what is no whole safetensors file
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}


def _folder(name: str) -> Path:
    return Path() if name == "default" else Path(name)


def _wrapped(peft_model: nn.Module) -> list[str]:
    from peft.utils import ModulesToSaveWrapper

    base = peft_model.get_base_model()
    return [name for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)]


def _linear(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    listed = ", ".join(names[:4] + ["..."] * (len(names) > 4)) or "none"
    return f"its linear layers are {listed}; target_modules='all-linear' takes all but the output layer"
