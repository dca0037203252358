"""Names of the dtypes that weights are computed in, short and as torch has them; torch is not imported."""

from .errors import check_choice

__all__ = ["DTYPES", "dtype_name", "short_dtype"]

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
SHORT = {name: short for short, name in DTYPES.items()}
NAMES = (*DTYPES, *SHORT)


def dtype_name(owner: str, option: str, given: object) -> str:
    """Return torch's name of a dtype, such as "bfloat16"; raise HybridOptError for what is none of them.

    Args:
        owner: whose option it is.
        option: its name.
        given: "bf16", "bfloat16", or the torch.dtype itself.
    """
    name = str(given).removeprefix("torch.")
    check_choice(owner, option, name, NAMES)
    return DTYPES.get(name, name)


def short_dtype(owner: str, option: str, given: str) -> str:
    """Return the short name of a dtype, such as "bf16".

    Args:
        owner: policy, function or command that an error is about.
        option: name of the argument.
        given: a short or long name.

    Raises:
        HybridOptError: it is no name of a dtype.
    """
    check_choice(owner, option, given, NAMES)
    return SHORT.get(given, given)
