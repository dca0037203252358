"""What makes a model of a configuration, and which setting is to blame where nothing does."""

from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import HybridOptError

__all__ = ["causal", "no_model", "usual_head"]

Works = Callable[[dict[str, Any]], object]  # settings to whatever is made of them; raises where nothing is


def causal(name: str, config: Any) -> Any:
    """Return what makes causal language models; raise HybridOptError where there is none of this configuration."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise HybridOptError(
            f"model={name!r}: architectures={config.architectures} names no class of transformers, and "
            f"{config.model_type!r} has no causal language model; name the class that is trained, such as "
            'architectures=["...ForConditionalGeneration"]'
        )
    return AutoModelForCausalLM


def usual_head(settings: Mapping[str, Any]) -> str | None:
    """Return the class that is trained where settings name a model without a head; None where they name another.

    Encoders are given a classifier of sequences, others the head that continues texts.
    """
    import transformers

    if settings["model_type"] not in transformers.CONFIG_MAPPING:
        return None
    kind = transformers.CONFIG_MAPPING[settings["model_type"]]
    bare = transformers.MODEL_MAPPING.get(kind, None)
    if not isinstance(bare, type) or settings.get("architectures") != [bare.__name__]:
        return None
    encodes = kind in transformers.MODEL_FOR_MASKED_LM_MAPPING
    heads = "SEQUENCE_CLASSIFICATION" if encodes else "CAUSAL_LM"
    found = vars(transformers.models.auto.modeling_auto)[f"MODEL_FOR_{heads}_MAPPING"].get(kind, None)
    return found.__name__ if isinstance(found, type) else None


def no_model(name: str, settings: Mapping[str, Any], works: Works) -> HybridOptError:
    """Return the error for settings of which transformers makes no model, with the one that is to blame.

    Args:
        name: of the model, for the error.
        settings: with which `works` raises.
        works: makes something of settings.
    """
    key = _culprit(settings, works)
    if key is None:
        return HybridOptError(
            f"model={name!r}: transformers makes no model of its settings, and no single one is to blame; compare "
            "them with those of a model of the same kind that is there"
        )
    from transformers import CONFIG_MAPPING

    kind = settings["model_type"]
    usual = getattr(CONFIG_MAPPING[kind](), key, None)
    return HybridOptError(
        f"model={name!r}: {key}={settings[key]!r} is not allowed beside the other settings; a model of {kind!r} may "
        f"have {key}={usual!r}"
    )


def _culprit(settings: Mapping[str, Any], works: Works) -> str | None:
    """Return the first setting without which `works` raises nothing; None if there is no single one."""
    for key in (key for key in settings if key not in ("model_type", "architectures")):
        try:
            works({name: value for name, value in settings.items() if name != key})
        except Exception:  # noqa: S112 (any reason will do)
            continue
        return key
    return None
