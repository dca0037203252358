"""The lines of Python that set a planned way of training up."""

from .request import Request

__all__ = ["calls"]


def calls(request: Request, lr: float) -> str:
    """`hybridopt.wrap` and `optimizer`, with what must come before; for a model loaded in the dtype planned for."""
    return "\n".join([*_before(request), _wrap(request), _optimizer(request, lr)])


def _before(request: Request) -> list[str]:
    lines = ["from peft import LoraConfig"] if request.lora else []
    if not request.checkpointing:
        return lines
    lines += [f'model.gradient_checkpointing_enable({{"use_reentrant": {request.reentrant}}})']
    return lines + (["model.enable_input_require_grads()"] if request.reentrant else [])


def _wrap(request: Request) -> str:
    given = {"policy": request.policy, **request.options}
    parts = [f"{name}={_text(value)}" for name, value in given.items()]
    if request.lora:
        parts.append(f'peft_config=LoraConfig(r={request.lora}, target_modules="all-linear")')
    if request.quantization:
        parts.append(f"quantization={_text(request.quantization)}")
    return f"model = hybridopt.wrap(model, {', '.join(parts)})"


def _optimizer(request: Request, lr: float) -> str:
    release = f', release="{request.release}"' if request.release != "accumulate" else ""
    return f"optimizer = model.hybrid.optimizer(lr={lr:g}{release})"


def _text(value) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
