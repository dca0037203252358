"""Saved runs one after the other on the tensors of a checkpoint: which fit, and which results are exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from torch import Tensor

from ...core.errors import HybridOptError
from ...core.files import tensors
from ...model.checksums import checksum
from ...model.roles import base_name
from ..completeness import check_complete
from ..configuration import read_config
from ..folder import open_folder
from ..names import CONFIG, DELTA, REPLAY
from ..replay import file as replay_file
from ..replay.rebuild import check_names
from ..replay.trajectory import Endpoints, Trajectory

__all__ = ["Adapter", "Known", "fitted", "read_adapter"]

IN_PYTHON = "in Python hybridopt.from_pretrained(model, folder) finds it"
Known = dict[str, int | None]  # checksums by name; None: no longer known


@dataclass(frozen=True, eq=False)
class Adapter:
    """The content of a saved folder, by base name.

    Args:
        path: of the folder.
        run: the saved run.
        names: by base name, the names of the parameters in training.
        delta: the tensors that are put in place as they are.
        base: the record of its base model.
    """

    path: Path
    run: Trajectory
    names: Mapping[str, str]  # of the parameters in training
    delta: Mapping[str, Tensor]
    base: Mapping[str, list]

    def trace(self, name: str) -> Endpoints:
        """Return what is known of a replayed tensor before and after."""
        return self.run.traces[self.names[name]]

    @property
    def touched(self) -> set[str]:
        """Return the names of all tensors that it changes."""
        return {*self.names, *self.delta}


def read_adapter(path: Path) -> Adapter:
    """Read and verify a saved folder. Raises HybridOptError for one that cannot be replayed without its model."""
    with open_folder(path) as folder:
        config = read_config(folder.path(CONFIG))
        _check_alone(path, config, folder.names)
        run = replay_file.read(folder.path(REPLAY))
        delta = tensors.load(folder.path(DELTA), "changed base tensors") if DELTA in folder.names else {}
        check_names(run, config, delta)
        check_complete(folder, config, delta)
    names = {base_name(name): name for name in run.traces}
    return Adapter(path, run, names, {base_name(n): x for n, x in delta.items()}, config["base"])


def fitted(adapters: Sequence[Adapter], base: Known) -> list[bool]:
    """Return of every adapter whether its results are exact: it was trained on what the ones before it lead to.

    Those that were trained on the same base as the first are added: their steps do not depend on the weights, so what
    they change is the sum of what each has changed, up to rounding. `base` holds the checksums of the tensors there
    are.

    Raises:
        HybridOptError: for any other.
    """
    now, exact = dict(base), []
    for adapter in adapters:
        other = _other(adapter, now)
        if other is not None:
            _check_added(adapter, adapters, other, base)
        exact.append(other is None)
        results = {name: adapter.trace(name).result for name in adapter.names}
        results |= {name: checksum(x) for name, x in adapter.delta.items()}
        now |= results if other is None else dict.fromkeys(results)
    return exact


def check_tensor(adapter: Adapter, name: str, x: Tensor) -> None:
    """Raise HybridOptError unless a tensor of the checkpoint has the dtype and shape that were trained.

    Args:
        adapter: that changes it.
        name: base name of the tensor.
        x: the tensor.
    """
    trace = adapter.trace(name) if name in adapter.names else adapter.delta[name]
    if (tuple(x.shape), x.dtype) != (tuple(trace.shape), trace.dtype):
        raise HybridOptError(
            f"{adapter.path} was trained with {name!r} of shape {tuple(trace.shape)} in {trace.dtype}, the base has "
            f"it as {tuple(x.shape)} in {x.dtype}; take the base as it was trained, converted to that dtype"
        )


def check_present(adapter: Adapter, names: Sequence[str], base: Path) -> None:
    """Raise HybridOptError for a tensor that the checkpoint lacks, or has under another name.

    Args:
        adapter: whose tensors are looked for.
        names: of all tensors in the checkpoint.
        base: the checkpoint's path, for the error.
    """
    for name in sorted(adapter.touched.difference(names)):
        near = get_close_matches(name, names, 1, 0.3) or sorted(names)[:1]
        raise HybridOptError(
            f"{adapter.path} changes {name!r}, and {base} has no tensor of that name, but for example {near[0]!r}: it "
            f"is another base, or names its tensors otherwise than the model; {IN_PYTHON}"
        )


def _check_alone(path, config, names):
    """Raise HybridOptError for a folder whose results are not whole base tensors."""
    if config["quantization"] is not None:
        raise HybridOptError(f"{path} was trained on a base quantized with {config['quantization']}; {IN_PYTHON}")
    if config["adapters"]:
        raise HybridOptError(f"{path} holds PEFT adapters ({', '.join(config['adapters'])}); {IN_PYTHON}")
    if REPLAY not in names:
        what = f"changed tensors ({DELTA})" if DELTA in names else "nothing that was trained"
        what = "a whole model, which needs no base" if config["whole"] else what
        raise HybridOptError(
            f"{path} has no {REPLAY}: it holds {what}, as weights that were not trained by losses alone, in one run "
            f"since the base, are not saved as scalars; {IN_PYTHON}"
        )


def _other(adapter: Adapter, now: Known) -> str | None:
    """Return the name of a tensor that is not what it was when the training of the adapter began; None if all are."""
    marks = {name: mark[2] for name, mark in adapter.base.items() if mark[2] is not None}
    marks |= {name: adapter.trace(name).base for name in adapter.names}
    return next((name for name in sorted(marks) if name in now and now[name] != marks[name]), None)


def _check_added(adapter, adapters, other, base):
    """Raise HybridOptError unless the steps of an adapter may be added to those of the others."""
    wrong = _other(adapter, base)
    if wrong is not None:
        before = "" if adapter is adapters[0] else ", nor what the adapters before it lead to"
        raise HybridOptError(
            f"{adapter.path} was not trained on this base{before}: {wrong if before == '' else other!r} has other "
            "values; take the base, and the order, in which they were trained"
        )
    for one in adapters:
        if one.run.decays:
            raise HybridOptError(
                f"{adapter.path} was trained on the base, not on what the adapters before it lead to, and cannot be "
                f"added, as {one.path} was trained with weight decay, which depends on the weights; give one of them"
            )
    if taken := sorted(set(adapter.delta) & {n for one in adapters if one is not adapter for n in one.touched}):
        raise HybridOptError(
            f"{adapter.path} holds {taken[0]!r} as a tensor, which others change, too; give one of them"
        )
