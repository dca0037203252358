"""`hybridopt merge`: a saved folder and its base made one model folder, one tensor at a time."""

import copy
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch

from ...core.contracts import Adapters, Merging
from ...core.dtypes import dtype_name
from ...core.errors import HybridOptError
from ...core.files.paths import path_of
from ...core.sizes import bytes_of
from ...model.loading.matching import match
from ...model.loading.weight_files import Stored, in_file, stored
from ...model.roles import base_name
from ..completeness import check_complete, stood_for
from ..configuration import read_config
from ..folder import Folder, open_folder, publish
from ..held_adapters import library_in, together
from ..labels import name_classes_
from ..manifest import MANIFEST
from ..names import CONFIG, DELTA, REPLAY
from ..replay import file as replay_file
from ..replay.rebuild import check_names
from .base import base_folder, first_adapter, resize_, skeleton
from .coded import coded_weights
from .companions import write_companions
from .outputs import Outputs
from .shards import write_shards
from .values import check_shapes, check_values, values_of

__all__ = ["MergeReport", "merge"]


@dataclass(frozen=True)
class MergeReport:
    """What a merge has done.

    Args:
        out: the folder that it wrote.
        base: the folder of the base model.
        architecture: the class that loads it.
        tensors: that were written.
        changed: those of them that training had changed, or whose layer has adapters, as its bias.
        compared: tensors of the base that were compared with those trained on, by their checksums.
        size: bytes of the weights.
        shards: files of them.
        inactive: adapters that were switched off, and so are not in it.
    """

    out: Path
    base: Path
    architecture: str
    tensors: int
    changed: int
    compared: int
    size: int
    shards: int
    inactive: tuple[str, ...]


def merge(
    folder: str | PathLike,
    out: str | PathLike,
    base: str | PathLike | None = None,
    dtype: str = "bfloat16",
    max_shard_size: str | int = "5GB",
) -> MergeReport:
    """Write a model folder of a base with all that training changed: adapters, changed tensors, replayed runs.

    The base is read in full precision, tensor by tensor, also where training had it quantized; adapters are added in
    float32 and rounded once. The folder appears complete or not at all, and transformers loads it by itself.

    Args:
        folder: what `model.hybrid.save_pretrained` wrote.
        out: the new folder; an earlier result there is replaced, any other is refused.
        base: the folder of the base model; None: the one that the adapter names.
        dtype: of the weights: "bfloat16", "float16" or "float32", or short as "bf16".
        max_shard_size: bytes of a file at most, such as "5GB"; a single tensor may be larger.

    Raises:
        HybridOptError: before anything is written, for another base, files that do not fit, and what cannot be merged.
    """
    exact = getattr(torch, dtype_name("merge", "dtype", dtype))
    largest = bytes_of(max_shard_size, "max_shard_size")
    folder, out = path_of(folder, "folder"), path_of(out, "out")
    given = None if base is None else path_of(base, "base")
    with open_folder(folder) as saved, together(saved) as place:
        work = _Work(saved, Path(place), given, exact)
        _check_out(out, (folder, work.base))
        compared = check_values(work.values, work.config)
        return work.write(out, largest, compared)


class _Work:
    """A merge that was checked, but for the values of the base."""

    def __init__(self, saved: Folder, place: Path, given: Path | None, dtype: torch.dtype):
        self.saved, self.dtype = saved, dtype
        self.config = config = read_config(saved.path(CONFIG))
        if config["whole"]:
            raise HybridOptError(
                f"{saved.directory} holds a whole model, and there is nothing to merge: transformers "
                "(AutoModel...from_pretrained), vLLM and `hybridopt chat` take the folder as it is"
            )
        delta = in_file(saved.path(DELTA), "changed base tensors") if DELTA in saved.names else {}
        run = replay_file.read(saved.path(REPLAY)) if REPLAY in saved.names else None
        check_names(run, config, delta)
        check_complete(saved, config, delta)
        library = library_in(saved, config)
        adapter = first_adapter(saved, library, config)
        self.base = base_folder(saved.directory, given, adapter)
        held = _held(saved, library, delta)
        self.model, other_head = skeleton(self.base, dtype, config["base"], adapter, held)
        name_classes_(self.model.config, config["labels"])
        found = match(self.model, stored(self.base), held, other_head)
        resize_(self.model, config["base"])
        named = {base_name(name): entry for name, entry in delta.items()}
        whole, coded = coded_weights(self.model, named, config)
        check_shapes(whole, self.model.state_dict())
        self.values = values_of(self.model, found, whole, coded, run)
        self.outputs = Outputs(self.model, self.values, self._merging(library, place), dtype)

    def _merging(self, library: Adapters, place: Path) -> Merging | None:
        if not self.config["adapters"]:
            return None
        names, active = self.config["adapters"], self.config["active"] or self.config["adapters"][:1]
        empty = copy.deepcopy(self.model)
        library.prepare(empty, place, names, None)
        return library.merging(empty, place, names, active, self.config["injected"])

    def write(self, out: Path, largest: int, compared: int) -> MergeReport:
        outputs, done = list(self.outputs), dict[str, int]()

        def write(folder: Path) -> None:
            done["shards"] = write_shards(outputs, folder, largest)
            write_companions(self.model, self.base, self.saved, folder, self.dtype, self.outputs.untied)
            done["size"] = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

        there = out.exists()
        try:
            publish(out, write)
        except BaseException:
            if not there:
                with suppress(OSError):
                    out.rmdir()
            raise
        changed = sum(each.changed for each in outputs)
        idle = tuple(n for n in self.config["adapters"] if n not in (self.config["active"] or self.config["adapters"]))
        kind = type(self.model).__name__
        return MergeReport(out, self.base, kind, len(outputs), changed, compared, **done, inactive=idle)


def _held(saved: Folder, library: Adapters, delta: dict[str, Stored]) -> set[str]:
    """Return the base names of the tensors whose values are in the saved folder."""
    files = [saved.path(name) for name in saved.names if Path(name).name == library.files[0]]
    return stood_for([*delta, *(base_name(name) for file in files for name in in_file(file, "the adapter"))])


def _check_out(out: Path, sources: tuple[Path, Path]) -> None:
    """Raise HybridOptError for a place where something else is, the saved folder itself, and one within the base."""
    saved, base = (source.resolve() for source in sources)
    for source, places in ((saved, [out.resolve()]), (base, [out.resolve(), *out.resolve().parents])):
        if source in places:
            raise HybridOptError(f"{out} lies in {source}, which is read; give a folder elsewhere (-o)")
    if not out.exists():
        return
    if not out.is_dir():
        raise HybridOptError(f"there is a file at {out}; give another folder (-o)")
    if (out / CONFIG).exists():
        raise HybridOptError(f"{out} is a folder that model.hybrid.save_pretrained wrote; give another folder (-o)")
    if not (out / MANIFEST).exists() and (there := sorted(path.name for path in out.iterdir())):
        raise HybridOptError(
            f"{out} holds {', '.join(there[:3])}, and no earlier result of a merge; give a new or empty folder (-o)"
        )
