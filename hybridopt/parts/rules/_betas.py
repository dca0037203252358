"""The two decay rates of a rule that keeps running means."""

from ...core.errors import HybridOptError, check_number

__all__ = ["check"]


def check(owner: str, betas: object) -> tuple[float, float]:
    """Return two numbers in [0, 1) as a tuple; HybridOptError, naming `owner`, for anything else."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise HybridOptError(f"betas={betas!r} is not allowed; give two numbers in [0, 1)", owner)
    for i, beta in enumerate(betas):
        check_number(owner, f"betas[{i}]", beta, 0, 1, open_end=True)
    first, second = betas
    return first, second
