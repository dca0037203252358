"""Ranks that meet: errors of torch, where one of them does not come, are put into words."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from .errors import HybridOptError

__all__ = ["meeting"]


@contextmanager
def meeting(what: str, others: bool = False) -> Iterator[None]:
    """Turn what torch raises, where another rank has stopped, into a HybridOptError.

    Args:
        what: what ranks met for.
        others: may the code within raise a RuntimeError of its own, which then passes through?
    """
    try:
        yield
    except HybridOptError:
        raise
    except RuntimeError as error:
        if others and not _of_meeting(error):
            raise
        raise HybridOptError(
            f"rank {distributed.get_rank()} could not meet the others to {what}: one of them has stopped, has raised "
            "an error, or takes longer than the timeout of init_process_group. Look at the errors of the other ranks, "
            f"then start all of them again from the last checkpoint ({type(error).__name__}: {str(error)[:300]})"
        ) from error


def _of_meeting(error: RuntimeError) -> bool:
    """Tell whether an error comes from a collective; those of gloo have no class of their own, but name its source."""
    there = distributed.is_available() and distributed.is_initialized()
    return there and (isinstance(error, distributed.DistError) or "/gloo/" in str(error))
