"""An attribute of a contract that a part works out from its options."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

__all__ = ["computed"]

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")

    class computed(Generic[T]):
        """Is `property`; type checkers allow no property in place of a plain attribute, but this."""

        def __init__(self, function: Callable[[Any], T]) -> None: ...

        def __get__(self, instance: object, owner: type | None = None) -> T: ...

else:
    computed = property
