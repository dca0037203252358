"""What a saved folder holds, as plain data, without its base model."""

import math
from pathlib import Path
from typing import Any

from ..core.files import plain_json
from ..model.loading.weight_files import Stored, in_file
from ..policy.model_folder import inspect_model
from . import manifest
from .completeness import check_complete
from .configuration import policy_of, read_config
from .folder import Folder, open_folder
from .held_adapters import library_in, together
from .links import COMMIT
from .names import CONFIG, DELTA, REPLAY
from .replay import file as replay_file
from .replay.rebuild import check_names
from .served import changed_beside, loaders
from .whole.read import check_whole

__all__ = ["inspect_saved", "is_saved"]

ADAPTER_KEYS = ("peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "use_dora", "task_type")

WEIGHT = ".weight"


def is_saved(folder: Path) -> bool:
    """Return whether `model.hybrid.save_pretrained` wrote a folder."""
    return any((place / CONFIG).exists() for place in (folder, folder / COMMIT))


def inspect_saved(directory: Path) -> dict[str, Any]:
    """Return files, formats, adapters, changed tensors, replayed run, base and policy of a saved folder.

    Every file is verified against the manifest and read as if somebody meant harm, as `from_pretrained` does.

    Raises:
        HybridOptError: naming the file, for what is missing, damaged or foreign.
    """
    with open_folder(directory) as folder:
        config = read_config(folder.path(CONFIG))
        raw = plain_json.read(folder.path(CONFIG), "configuration")
        delta = in_file(folder.path(DELTA), "changed base tensors") if DELTA in folder.names else {}
        run = replay_file.read(folder.path(REPLAY)) if REPLAY in folder.names else None
        check_names(run, config, delta)
        check_complete(folder, config, delta)
        check_whole(folder, config)
        adapters = _adapters(folder, config, delta, run is not None)
        policy = policy_of(None, {}, config)
        return {
            "kind": "saved folder",
            "path": str(directory),
            "holds": _holds(config, adapters, delta, run),
            "hybridopt": str(raw.get("hybridopt")),
            "formats": {"configuration": raw["format"], "checksums": raw.get("checksums", 1)} | _formats(run),
            "files": {name: folder.path(name).stat().st_size for name in folder.names},
            "policy": {"name": type(policy).__name__, **raw["policy"]},
            "seed": config["seed"],
            "base": _base(config, adapters),
            "adapters": adapters,
            "delta": {"tensors": len(delta), **_size(delta)},
            "replay": _replay(run),
        } | _model(folder, config, policy)


def _holds(config: dict, adapters: list[dict[str, Any]], delta: dict[str, Stored], run: Any) -> str:
    """Return in words what was saved."""
    if config["whole"]:
        return "a whole model, which transformers loads as it is"
    found = [f"{len(adapters)} adapter{'s' * (len(adapters) > 1)}"] if adapters else []
    found += [f"{len(delta)} changed tensor{'s' * (len(delta) > 1)}"] if delta else []
    found += [f"a run of {len(run)} steps"] if run is not None else []
    return " and ".join(found) + ", for its base" if found else "nothing that differs from the base"


def _model(folder: Folder, config: dict, policy: Any) -> dict[str, Any]:
    """Return what is told of a whole model: its class, parameters and bytes, by role and by the policy's tags."""
    if not config["whole"]:
        return {}
    with together(folder) as place:
        found = inspect_model(Path(place), policy)
    kept = {key: found[key] for key in ("architecture", "dtype", "tensors", "parameters", "bytes")}
    return {"model": kept, "roles": found["roles"]}


def _formats(run: Any) -> dict[str, int]:
    return {"manifest": manifest.FORMAT} | ({} if run is None else {"replay": replay_file.FORMAT})


def _size(entries: dict[str, Stored]) -> dict[str, int]:
    sizes = [(math.prod(each.shape), each.dtype.itemsize) for each in entries.values()]
    return {"parameters": sum(n for n, _ in sizes), "bytes": sum(n * width for n, width in sizes)}


def _adapters(folder: Folder, config: dict, delta: dict[str, Stored], replayed: bool) -> list[dict[str, Any]]:
    library = library_in(folder, config)
    weights, settings = library.files
    found = []
    for name in config["adapters"]:
        place = library.folder(name)
        entries = in_file(folder.path(str(place / weights)), "the adapter")
        data = plain_json.read(folder.path(str(place / settings)), "adapter configuration")
        kept = {key: data[key] for key in ADAPTER_KEYS if data.get(key) not in (None, False)}
        base = {"base": data.get("base_model_name_or_path"), "revision": data.get("revision")}
        own = {"name": name, "active": name in config["active"], **kept, **base, **_size(entries)}
        found.append(own | {"loads in": loaders(data, entries, replayed or changed_beside(delta, entries))})
    return found


def _base(config: dict, adapters: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is known of the base model; None for what a folder of this kind does not know."""
    marks = config["base"].values()
    known = sum(mark[2] is not None for mark in marks)
    return {
        "name": next((each["base"] for each in adapters if each["base"]), config["name"]),
        "dtype": config["dtype"],
        "tensors": len(marks),
        "parameters": sum(mark[0] for mark in marks),
        "checksums": None if config["whole"] else known,
        "compared": _compared(config, known),
        "quantization": config["quantization"],
        "quantized": len(_quantized(config)),
        "trained": len(config["unfrozen"]) if adapters else None,
    }


def _compared(config: dict, known: int) -> str:
    """Return in words which values of the base model are compared when the folder is loaded."""
    if config["whole"]:
        return "none: the folder holds every weight, and goes onto whatever values the base has"
    if not known:
        return "none: the folder holds every value that counts; names and sizes of tensors are compared"
    return f"{known} of {len(config['base'])} tensors, by checksum; the folder holds what counts of the others"


def _quantized(config: dict) -> set[str]:
    """Return the names of the layers that `wrap` quantized, and of those that were kept as codes before."""
    if config["quantization"] is None:
        return set()
    codes = {name for name, mark in config["base"].items() if name.endswith(WEIGHT) and "float" not in mark[1]}
    return {*config["quantized"], *(name.removesuffix(WEIGHT) for name in codes)}


def _replay(run: Any) -> dict[str, int] | None:
    if run is None:
        return None
    traces = run.traces.values()
    size = sum(x.nbytes for x in (run.slopes, run.rates, run.counts))
    return {
        "steps": len(run),
        "directions": run.slopes.shape[1],
        "tensors": len(traces),
        "parameters": sum(trace.numel for trace in traces),
        "bytes": size,
    }
