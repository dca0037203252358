"""Write the lines of Python that set a planned way of training up."""

from ...model.adapters import usual_library
from ..request import Request

__all__ = ["calls"]


def calls(request: Request, lr: float) -> str:
    """Return the lines that call `hybridopt.wrap` and `optimizer`, for a model loaded in the dtype planned for."""
    return "\n".join(
        [*_loaded(request), *_before(request), _wrap(request), _optimizer(request, lr), *_training(request)]
    )


def _loaded(request: Request) -> list[str]:
    """Return the lines that load a model which does not fit before it is quantized."""
    if not request.quantization:
        return []
    return [
        "# Without a full-precision copy in memory (then leave quantization out below):",
        f'# model = hybridopt.load(folder, quantization="{request.quantization}", device="{request.device}")',
    ]


def _before(request: Request) -> list[str]:
    lines = [usual_library().code(request.lora)[0]] if request.lora and request.peft_config is None else []
    if request.probes:
        lines.append("model.config.use_cache = False")
    if not request.checkpointing:
        return lines
    lines += [f'model.gradient_checkpointing_enable({{"use_reentrant": {request.reentrant}}})']
    return lines + (["model.enable_input_require_grads()"] if request.reentrant else [])


def _wrap(request: Request) -> str:
    given = {"policy": request.policy, **request.options}
    parts = [f"{name}={_text(value)}" for name, value in given.items()]
    if request.lora:
        own = usual_library().code(request.lora)[1]
        parts.append(f"peft_config={own if request.peft_config is None else 'peft_config'}")
        if request.adapter_dtype:
            parts.append(f"adapter_dtype={_text(request.adapter_dtype)}")
    if request.quantization:
        parts.append(f"quantization={_text(request.quantization)}")
    return f"model = hybridopt.wrap(model, {', '.join(parts)})"


def _optimizer(request: Request, lr: float) -> str:
    release = f', release="{request.release}"' if request.release != Request.release else ""
    return f"optimizer = model.hybrid.optimizer(lr={lr:g}{release})"


def _training(request: Request) -> list[str]:
    return [f"# train within: with hybridopt.chunked_loss(model, {request.chunk}):"] if request.chunk else []


def _text(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
