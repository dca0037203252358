"""Which programs take saved adapters: the rules of their loaders, as their sources have them.

vLLM: vllm/lora/peft_helper.py (`validate_legal`), lora_model.py, lora_weights.py and utils.py, vllm/config/lora.py.
llama.cpp: convert_lora_to_gguf.py (`get_tensors`), src/llama-adapter.h (`get_scale`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.files import plain_json
from ..model.loading.weight_files import Stored, in_file
from ..model.roles import base_name
from .names import DELTA, REPLAY

__all__ = ["changed_beside", "loaders", "vllm_rank", "vllm_rank_of"]

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
BASE_EMBEDDINGS = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")  # passed over by vLLM
MERGED = "`hybridopt merge` makes a whole model of it"
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def loaders(settings: Mapping[str, Any], entries: Mapping[str, Stored], more: bool) -> dict[str, str]:
    """Return in words, by program, whether it takes an adapter.

    Args:
        settings: adapter_config.json.
        entries: the adapter's tensors by name.
        more: whether tensors of the base were changed that no copy in the adapter stands for.
    """
    beside = "no: it does not read the tensors of the base that were changed as well; "
    if more:
        return dict.fromkeys(("PEFT", "vLLM", "llama.cpp"), beside + MERGED)
    rank = vllm_rank(settings, entries)
    served = f"--enable-lora --max-lora-rank {rank}, for models on which it serves LoRA"
    converted = "convert_lora_to_gguf.py, for models that it knows"
    return {
        "PEFT": "yes",
        "vLLM": served if rank is not None else _no(_vllm(settings, entries)),
        "llama.cpp": _no(said) if (said := _llama_cpp(settings, entries)) else converted,
    }


def vllm_rank(settings: Mapping[str, Any], entries: Mapping[str, Stored]) -> int | None:
    """Return the least --max-lora-rank with which vLLM takes an adapter; None where it takes it by none.

    Args:
        settings: adapter_config.json.
        entries: the adapter's tensors by name.
    """
    return None if _vllm(settings, entries) else next(rank for rank in VLLM_RANKS if settings["r"] <= rank)


def vllm_rank_of(folder: Path) -> int | None:
    """Return `vllm_rank` of the adapter in a folder; None where there is none, or more than adapters."""
    if not (folder / SETTINGS).is_file():
        return None
    entries = in_file(folder / WEIGHTS, "the adapter")
    delta = in_file(folder / DELTA, "changed base tensors") if (folder / DELTA).exists() else {}
    if (folder / REPLAY).exists() or changed_beside(delta, entries):
        return None
    return vllm_rank(plain_json.read(folder / SETTINGS, "adapter configuration"), entries)


def changed_beside(changed: Iterable[str], adapter: Iterable[str]) -> bool:
    """Return whether tensors of the base were changed that no copy in an adapter stands for.

    Args:
        changed: names of the tensors of the base that were changed.
        adapter: names of the adapter's tensors.
    """
    return not {base_name(name) for name in changed} <= {base_name(name) for name in adapter}


def _vllm(settings: Mapping[str, Any], entries: Mapping[str, Stored]) -> list[str]:
    """Return the reasons for which vLLM refuses an adapter, or would compute with another scale."""
    found = _no_lora(settings, entries)
    found += ["modules_to_save"] if settings.get("modules_to_save") else []
    found += ["DoRA"] if settings.get("use_dora") else []
    found += [f"bias={settings['bias']!r}"] if settings.get("bias", "none") != "none" else []
    found += [f"rank {settings['r']} above {VLLM_RANKS[-1]}"] if _rank(settings) > VLLM_RANKS[-1] else []
    found += [f"{name}, which it does not read" for name in ("rank_pattern", "alpha_pattern") if settings.get(name)]
    others = [name for name in entries if not name.endswith((*FACTORS, *BASE_EMBEDDINGS))]
    return found + ([f"the tensor {others[0]}"] if others and not found else [])


def _llama_cpp(settings: Mapping[str, Any], entries: Mapping[str, Stored]) -> list[str]:
    """Return the reasons for which llama.cpp refuses an adapter, or would compute with another scale."""
    found = _no_lora(settings, entries)
    found += [f"{name}, which it does not read" for name in ("use_rslora", "alpha_pattern") if settings.get(name)]
    known = (*FACTORS, ".base_layer.weight", "_layernorm", ".norm")
    others = [name for name in entries if not any(part in name for part in known)]
    return found + ([f"the tensor {others[0]}"] if others and not found else [])


def _no_lora(settings: Mapping[str, Any], entries: Mapping[str, Stored]) -> list[str]:
    """Return what no program but PEFT takes: other kinds of adapters, and factors that are no matrices."""
    if settings.get("peft_type") != "LORA" or not _rank(settings):
        return [f"{settings.get('peft_type')} adapters"]
    parts = [name for name, entry in entries.items() if name.endswith(FACTORS) and len(entry.shape) != 2]
    found = [f"layers that are no matrices, as in {parts[0]}"] if parts else []
    return found + (["adapters on parameters (target_parameters)"] if settings.get("target_parameters") else [])


def _rank(settings: Mapping[str, Any]) -> int:
    """Return the rank; 0 where there is none."""
    return rank if isinstance(rank := settings.get("r"), int) and not isinstance(rank, bool) else 0


def _no(reasons: list[str]) -> str:
    return f"no, for {' and '.join(reasons)}; {MERGED}"
