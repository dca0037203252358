"""What lies in a saved folder, read and checked, but not yet against a model."""

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.contracts import Activations, Adapters, Scheme
from ..core.errors import HybridOptError, HybridOptWarning
from ..core.files import tensors
from ..core.registry import unpack
from ..model.quantization.scheme_names import named
from ..policy.routes import Ready
from .completeness import check_complete
from .configuration import policy_of, read_config
from .folder import Folder
from .held_adapters import library_in
from .names import CONFIG, DELTA, REPLAY
from .replay import file as replay_file
from .replay.rebuild import check_names
from .replay.trajectory import Trajectory
from .whole.read import check_whole

__all__ = ["Contents", "contents_of"]


@dataclass(frozen=True)
class Contents:
    """What lies in a folder, read and checked, but not yet against a model.

    Args:
        folder: the folder.
        config: its configuration.
        ready: the policy to go on with.
        delta: changed tensors of the base, by name.
        run: what was saved as the scalars of a run; None: nothing.
        library: of its adapters.
        activations: what trained linear layers keep of their inputs; None: everything.
    """

    folder: Folder
    config: dict[str, Any]
    ready: Ready
    delta: dict[str, Tensor]
    run: Trajectory | None
    library: Adapters
    activations: Activations | None

    @property
    def scheme(self) -> Scheme:
        """Return the quantization scheme of the base, which is quantized."""
        return named(self.config["quantization"], CONFIG)

    @property
    def changed(self) -> set[str]:
        """Return the names of what was saved of the base's tensors: values, or the run that they follow from."""
        return {*self.delta, *(() if self.run is None else self.run.traces)}


def contents_of(folder: Folder, policy: str | Ready | None, options: dict[str, Any], sharded: bool) -> Contents:
    """Read a saved folder, all but its adapters and a whole model's weights.

    Args:
        folder: open, its files verified.
        policy: another policy to go on with; None takes the saved one.
        options: of a policy that is given by its name.
        sharded: does it go onto a sharded model? Changed tensors have no values then: they are read when written.

    Raises:
        HybridOptError: for files that are damaged, lack something or do not agree.
    """
    config = read_config(folder.path(CONFIG))
    ready = policy_of(policy, options, config)
    delta = _delta(folder, sharded)
    run = replay_file.read(folder.path(REPLAY)) if REPLAY in folder.names else None
    library = library_in(folder, config)
    check_names(run, config, delta)
    check_complete(folder, config, delta)
    check_whole(folder, config)
    if config["whole"] and ready.opens_scales:
        raise HybridOptError(
            f"{folder.directory} holds a whole model in floats, and policy {type(ready).__name__} trains the scales "
            "of a quantized one; load it with transformers and wrap it with quantization=..., or give policy=..."
        )
    return Contents(folder, config, ready, delta, run, library, _activations(config["activations"]))


def _delta(folder: Folder, sharded: bool) -> dict[str, Tensor]:
    """Return the changed tensors of the base; for a sharded model without values, which are read when written."""
    if DELTA not in folder.names:
        return {}
    path, what = folder.path(DELTA), "changed base tensors"
    return {name: x.to("meta") for name, x in tensors.each(path, what)} if sharded else tensors.load(path, what)


def _activations(kept: dict[str, Any] | None) -> Activations | None:
    """Return what trained linear layers keep of their inputs; None: everything, also for a scheme that has to be told.

    kept: as it was saved.
    """
    if kept is None or "custom" not in kept:
        return None if kept is None else unpack(kept, "activations")
    warnings.warn(
        f"this was trained with activations={kept['custom']!r}, which is no part of hybridopt: inputs are kept now; "
        "call model.hybrid.keep_activations(...) before training goes on",
        HybridOptWarning,
        stacklevel=5,
    )
    return None
