"""Ranks that meet: errors of torch, where one of them does not come, are put into words."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from .errors import HybridOptError

__all__ = ["meeting"]


@contextmanager
def meeting(what: str) -> Iterator[None]:
    """Turn what torch raises, where another rank has stopped, into a HybridOptError; `what`: what ranks met for."""
    try:
        yield
    except HybridOptError:
        raise
    except RuntimeError as error:
        raise HybridOptError(
            f"rank {distributed.get_rank()} could not meet the others to {what}: one of them has stopped, has raised "
            "an error, or takes longer than the timeout of init_process_group. Look at the errors of the other ranks, "
            f"then start all of them again from the last checkpoint ({type(error).__name__}: {str(error)[:300]})"
        ) from error
