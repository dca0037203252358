"""hybridopt_config.json: what is written into it, and how it is checked when it is read."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import HybridOptError, HybridOptWarning
from ..core.files import plain_json
from ..core.registry import pack, unpack
from ..core.version import __version__
from ..model.adapted_tensors import replaced
from ..model.adapters import library_of, usual_library
from ..model.changed_codes import layer_of_kept
from ..model.checksums import VERSION
from ..model.deferred_checksums import number
from ..model.quantization.owners import scheme_of
from ..model.roles import base_name
from ..policy.compatibility import completed
from ..policy.routes import Policy, Ready, check_format, pack_routes, read_policy, unpack_routes
from .fitting import base_dtype
from .labels import labels_of
from .names import CONFIG

__all__ = ["configuration", "policy_of", "read_config", "whole_configuration"]

KEYS = (
    "format",
    "hybridopt",
    "policy",
    "seed",
    "quantization",
    "quantized",
    "adapters",
    "active",
    "injected",
    "unfrozen",
    "trainable",
    "base",
    "dtype",
    "replayed",
    "checksums",
    "whole",
    "name",
    "labels",
    "activations",
)


def configuration(strategy: Any, saved: set[str], replayed: Mapping[str, object]) -> dict:
    """Describe a strategy as the JSON object that `read_config` takes.

    Args:
        strategy: what is saved, see `save.Savable`.
        saved: names of the tensors whose values are saved, so that those of the base do not matter.
        replayed: by name, the tensors that are saved as scalars.
    """
    policy, model = strategy.policy, strategy.model
    library = library_of(model) or usual_library()
    free = {base_name(n) for n in saved} | replaced(model)
    free |= {n.rpartition(".")[0] for n in free}  # of a weight's codes: the weight
    free |= {f"{layer}.weight" for n in free if (layer := layer_of_kept(n))}
    return {
        "format": 1,
        "hybridopt": __version__,
        "policy": {"routes": pack_routes(policy)} if isinstance(policy, Policy) else pack(policy),
        "seed": strategy.seed,
        "quantization": scheme_of(model),
        "quantized": list(strategy.quantized),
        "adapters": library.names(model),
        "active": library.active(model),
        "unfrozen": strategy.unfrozen(),
        "base": {n: [*mark[:2], None if n in free else number(mark[2])] for n, mark in strategy.base.items()},
        "dtype": base_dtype(model),
        "checksums": VERSION,
    } | _only_some(model, strategy, replayed)


def whole_configuration(strategy: Any, dtype: str, name: str | None) -> dict:
    """Describe a strategy whose whole model is saved, in floats, as the JSON object that `read_config` takes.

    Args:
        strategy: what is saved, see `save.Savable`.
        dtype: of the model, such as "bfloat16".
        name: of the base model, on the hub or on this machine; None: it is not known.
    """
    found = configuration(strategy, set(strategy.base), {})
    kept = {n: mark[1] if "float" in mark[1] else f"torch.{dtype}" for n, mark in found["base"].items()}
    base = {n: [mark[0], kept[n], None] for n, mark in found["base"].items()}
    plain = {"quantization": None, "quantized": [], "adapters": [], "active": [], "unfrozen": strategy.unfrozen()}
    found.pop("trainable", None)
    return found | plain | {"base": base, "dtype": dtype, "whole": True, "name": name}


def _only_some(model: Any, strategy: Any, replayed: Mapping[str, object]) -> dict:
    """Return the keys that only some folders have."""
    library = library_of(model)
    found: dict[str, Any] = {"replayed": sorted(replayed)} if replayed else {}
    found |= {"labels": labels} if (labels := labels_of(model)) else {}
    found |= {} if strategy.activations is None else {"activations": pack(strategy.activations)}
    if library is not None:
        found["trainable"] = strategy.trainable()
    if library is not None and library.is_injected(model):
        found["injected"] = True
    return found


def read_config(path: Path) -> dict:
    """Return the configuration of a saved folder, every key checked; raise HybridOptError naming a bad key."""
    config = plain_json.read(path, "configuration")
    check_format(plain_json.take(config, "format", int, CONFIG), CONFIG)
    plain_json.only(config, KEYS, CONFIG)
    lists = dict.fromkeys(("quantized", "adapters", "active", "unfrozen"), list)
    kinds = {"seed": int, "quantization": str | None, "base": dict, "dtype": str | None, "policy": dict} | lists
    taken = {key: plain_json.take(config, key, kind, CONFIG) for key, kind in kinds.items()}
    taken["replayed"] = plain_json.take(config, "replayed", list, CONFIG, [])
    taken["injected"] = plain_json.take(config, "injected", bool, CONFIG, False)
    taken["trainable"] = plain_json.take(config, "trainable", list, CONFIG, None)
    taken["whole"] = plain_json.take(config, "whole", bool, CONFIG, False)
    taken["name"] = plain_json.take(config, "name", str | None, CONFIG, None)
    taken["labels"] = plain_json.take(config, "labels", list, CONFIG, [])
    taken["activations"] = plain_json.take(config, "activations", dict, CONFIG, None)
    for key in (*lists, "replayed", "trainable", "labels"):
        if not all(isinstance(name, str) for name in taken[key] or ()):
            raise HybridOptError(f"{CONFIG}: {key!r} must be an array of strings, not {taken[key]!r}")
    for name, mark in taken["base"].items():
        own = [type(v) for v in mark] if isinstance(mark, list) else []
        if own not in ([int, str, int], [int, str, type(None)]):
            raise HybridOptError(f"{CONFIG}: base: {name!r} must be [elements, dtype, checksum], not {mark!r}")
    checksums = plain_json.take(config, "checksums", int, CONFIG, 1)
    replaced = {name for name, mark in taken["base"].items() if checksums == VERSION and mark[2] is None}
    return taken | {"base": _comparable(taken["base"], checksums), "replaced": replaced}


def _comparable(base, version):
    """Return a base record without the checksums of older versions, which a few small changes could leave equal."""
    if not 1 <= version <= VERSION:
        raise HybridOptError(f"{CONFIG}: checksums={version} is not known; this hybridopt reads 1 to {VERSION}")
    if version == VERSION:
        return base
    warnings.warn(
        f"{CONFIG} was written by an older hybridopt: that this is the base model is seen by names and shapes only; "
        "save again to keep its values, too",
        HybridOptWarning,
        stacklevel=4,
    )
    return {name: [*mark[:2], None] for name, mark in base.items()}


def policy_of(policy: str | Ready | None, options: dict, config: dict) -> Ready:
    """Return the policy to go on with: the one that is asked for, or else the saved one.

    Args:
        policy: a policy or its name; None: the saved one.
        options: of a policy that is asked for by its name.
        config: what `read_config` has returned.

    Raises:
        HybridOptError: for options without a policy, and for a saved policy that this hybridopt cannot make.
    """
    if policy is not None:
        return read_policy(policy, options)
    if options:
        raise HybridOptError(f"options {sorted(options)} belong to a policy; name it, too: policy='frugal'")
    data = config["policy"]
    try:
        data = completed(data)
        return unpack_routes({"format": 1, **data}) if "routes" in data else unpack(data, "policies")
    except HybridOptError as error:
        raise HybridOptError(f"{CONFIG}: {error}: from_pretrained(model, directory, policy=...)") from error
