"""How functions of tensors are compiled here, which are not inlined, and what compiling raises if it cannot be."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

__all__ = ["compiled", "failures", "not_inlined", "reason"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(
    function: Callable[..., Any], number: int, dynamic: bool | None = None, **options: Any
) -> Callable[..., Any]:
    """Compile a copy of a function with a code object of its own.

    So functions do not count as each other's recompilations. Guards are on tensors and sizes only: callers have
    checked everything else, and all guards together cost more than a small update.

    Args:
        function: of tensors alone.
        number: makes its name one of its own.
        dynamic: are sizes symbols (True), numbers (False), or what torch.compile takes them for (None)?
        options: of inductor.
    """
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{number}")
    copy = FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)
    told: dict[str, Any] = {"guard_filter_fn": _sizes, "size_asserts": False, **options}
    return torch.compile(copy, fullgraph=True, dynamic=dynamic, options=told)


def not_inlined(function: F) -> F:
    """Let compiled models call this function, not inline it; torch.compiler.disable would import all of dynamo."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


def failures() -> tuple[type[Exception], ...]:
    """Return what compiling raises where it is not possible: while it compiles, so that nothing has been changed."""
    return torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, OSError


def reason(error: Exception) -> str:
    """Return what a failure says in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _sizes(guards: list[Any]) -> list[bool]:
    return [guard.guard_type in ("SHAPE_ENV", "TENSOR_MATCH") for guard in guards]
