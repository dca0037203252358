"""Refuse what `hybridopt plan` cannot be asked for before torch is imported, which takes seconds."""

from collections.abc import Mapping
from typing import Any

from ..core.errors import check_choice
from ..core.part_files import names
from ..core.part_options import options as options_of

__all__ = ["check_asked"]


def check_asked(
    model: str, policy: str | None, options: Mapping[str, Any], size: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    """Raise HybridOptError for names that are not known and numbers that are not allowed.

    Args:
        model: a name or a path.
        policy: a name or a path; None: the search's, or the usual one.
        options: of the policy.
        size: batch, dtype, device and what else of a `Request` is always given; None: left to the planner.
        asked: what of a `Request` is wanted.
    """
    from ..planning.limits import DTYPES, check_size
    from ..planning.subject.architectures import check_name

    _check_policy(policy, options)
    if "release" in asked:
        check_choice("plan", "release", asked["release"], names("releases"))
    if "quantization" in asked:
        schemes = [name.replace("_", "-") for name in names("schemes")]
        check_choice("plan", "quantization", asked["quantization"].replace("_", "-"), schemes)
    check_choice("plan", "dtype", size["dtype"], DTYPES)
    check_choice("plan", "device", size["device"], ("cuda", "cpu"))
    if "adapter_dtype" in size:
        check_choice("plan", "adapter_dtype", size["adapter_dtype"].removeprefix("torch."), DTYPES.values())
    for name in ("seq_len", "batch", "micro_batches", "lora", "chunk"):
        value = {**size, **asked}.get(name)
        if value is not None:
            check_size(name, value)
    check_name(model)


def _check_policy(policy: str | None, options: Mapping[str, Any]) -> None:
    if policy is not None and policy.endswith(".json"):
        return
    name = "frugal" if policy is None else policy.replace("-", "_")
    check_choice("plan", "policy", name, names("policies"))
    known = options_of("policies", name)
    if options and known is not None:
        from ..policy.other_names import check_known

        check_known(name, options, known)
