"""What `hybridopt plan` is asked for: read, and refused, before torch is imported, which takes seconds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...core.budget import AUTO, Budget
from ...core.card_speeds import Flops, sustained
from ...core.dtypes import dtype_name, short_dtype
from ...core.errors import HybridOptError, check_choice, check_count, check_number
from ...core.host import Host, host
from ...core.host_memory import left
from ...core.part_files import names
from ...core.part_options import options as options_of

if TYPE_CHECKING:
    from ...model.placement.placement import Placement

__all__ = [
    "Beside",
    "beside_asked",
    "check_activations",
    "check_asked",
    "check_beside",
    "options_asked",
    "placement_asked",
    "rate_asked",
]


class Beside(NamedTuple):
    """What is known of the machine besides the memory of its GPU; None where nothing rests elsewhere."""

    host: Host | None
    flops: Flops | None


def beside_asked(
    room: Budget | None, memory: str | None, bus: str | None, disk: str | None, tflops: float | None
) -> Beside:
    """Return the machine around a GPU, as far as it is given or known.

    Args:
        room: of the GPU; where it is this machine's, the host's memory is known, too.
        memory: of the host, as it was given.
        bus: likewise.
        disk: likewise.
        tflops: likewise.
    """
    here = room is not None and room.asked.strip().lower() == AUTO
    found = host(left(Path("/")) if memory is None and here else memory, bus, disk)
    if tflops is not None:
        check_number("plan", "tflops", tflops, 0.001, 1e6)
        return Beside(found, Flops(tflops * 1e12))
    return Beside(found, sustained(room.card.partition(" (")[0]) if room is not None and room.card else None)


def placement_asked(base: str | None, counts: Mapping[str, int | None], device: str) -> "Placement | None":
    """Return the placement that is asked for; None: everything stays on the device.

    Args:
        base: where layers rest; None: nothing was said.
        counts: slots and resident, as far as they were given.
        device: "cuda" or "cpu".
    """
    from ...model.placement.placement import read_placement

    given = {name: count for name, count in counts.items() if count is not None}
    if base is None or base == "device":
        if given:
            raise HybridOptError(f"plan: {given} say how layers are placed; give --placement host, too")
        return None
    found = read_placement(base, "plan")
    if device == "cpu" and base == "host":
        raise HybridOptError(
            "plan: placement='host' is nothing for device='cpu', which computes in the host's memory; take "
            "--placement disk"
        )
    return found if found is None else found.but(**given)


def options_asked(pairs: list[str], short: dict[str, Any]) -> dict[str, Any]:
    """Return the policy's options: those with a short form that were given, then those of key=value texts.

    Args:
        pairs: texts as key=value.
        short: by option, what its short form was given; None: nothing was said.
    """
    found = {name: value for name, value in short.items() if value is not None}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise HybridOptError(f"--option {pair!r} is not allowed; write key=value, such as density=0.25")
        found[name.replace("-", "_")] = _value(value)
    return found


def check_activations(activations: str | None, policy: str | None, searches: bool) -> None:
    """Raise HybridOptError for activations where a way to train is searched for, which keep all or compute anew.

    Args:
        activations: as they were given; None: nothing was said.
        policy: a name or a path; None: nothing was said.
        searches: is a way searched for where no policy is named?
    """
    if activations is not None and policy is None and searches:
        raise HybridOptError(
            f"plan: --activations {activations} goes with a policy, and --gpu without one searches for a way; give "
            "--policy, too"
        )


def check_beside(given: Mapping[str, str | None]) -> None:
    """Raise HybridOptError for what is said of the machine around a GPU where no layer rests there.

    given: by option, what was given; None: nothing was said.
    """
    said = " ".join(f"{option} {value}" for option, value in given.items() if value is not None)
    if said:
        raise HybridOptError(
            f"plan: {said} is about layers that rest beside the GPU, and here none does; give --placement host, disk "
            "or auto, too, or leave it out"
        )


def check_asked(model: str, policy: str | None, options: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise HybridOptError for names that are not known and numbers that are not allowed.

    Args:
        model: a name or a path.
        policy: a name or a path; None: the search's, or the usual one.
        options: of the policy.
        settings: of a `Request`, as far as they were given.
    """
    from ...planning.limits import PARALLEL, check_pass, check_size
    from ...planning.subject.architectures import check_name

    _check_policy(policy, options)
    if "release" in settings:
        check_choice("plan", "release", settings["release"], names("releases"))
    if "quantization" in settings:
        schemes = [name.replace("_", "-") for name in names("schemes")]
        check_choice("plan", "quantization", settings["quantization"].replace("_", "-"), schemes)
    short_dtype("plan", "dtype", settings["dtype"])
    check_choice("plan", "device", settings["device"], ("cuda", "cpu"))
    check_choice("plan", "parallel", settings["parallel"], PARALLEL)
    if "adapter_dtype" in settings:
        dtype_name("plan", "adapter_dtype", settings["adapter_dtype"])
    for name in ("seq_len", "batch", "micro_batches", "gpus", "lora", "chunk"):
        if name in settings:
            check_size(name, settings[name])
    check_pass(settings["batch"], settings.get("seq_len") or 1)
    check_name(model)


def rate_asked(lr: float | None, batch: int | None, policy: str | None) -> tuple[float, int] | None:
    """Return a learning rate and the batch for which it is right; None where nothing was said.

    Args:
        lr: the rate.
        batch: sequences of a step.
        policy: whose rate it is; None: nothing was said.
    """
    if lr is None and batch is None:
        return None
    if lr is None or batch is None or policy is None:
        given = {"--lr": lr, "--lr-batch": batch, "--policy": policy}
        missing = ", ".join(name for name, value in given.items() if value is None)
        raise HybridOptError(f"plan: a rate is right for a policy and a batch; give {missing}, too")
    check_number("plan", "lr", lr, 1e-12, 1e6)
    check_count("plan", "lr_batch", batch, 1, 2**31)
    return lr, batch


def _check_policy(policy: str | None, options: Mapping[str, Any]) -> None:
    if policy is not None and policy.endswith(".json"):
        return
    name = "frugal" if policy is None else policy.replace("-", "_")
    check_choice("plan", "policy", name, names("policies"))
    known = options_of("policies", name)
    if options and known is not None:
        from ...policy.other_names import check_known

        check_known(name, options, known)


def _value(text: str) -> Any:
    """Read a number, a list, a truth value or None; anything else is a word and stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)
