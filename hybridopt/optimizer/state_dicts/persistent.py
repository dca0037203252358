"""An optimizer whose state is saved and loaded exactly, by name."""

import warnings

import torch

from ...core.contracts import Release
from ...core.errors import HybridOptError, HybridOptWarning, shown
from ..groups.tags import Tags
from ..membership.membership import Membership
from ..parameters import Parameters
from ..probing.state import ProbeState
from ..windows.loss_windows import LossWindows
from . import matching, sharded
from .loaded_in_place import LoadedInPlace
from .regrouping import regrouped, rejoined

__all__ = ["Persistent"]


class Persistent(torch.optim.Optimizer):
    """What `HybridOptimizer` has in place of torch's own saving and loading."""

    _loaded_in_place: LoadedInPlace
    _pace: LossWindows | None
    _membership: Membership
    _probing: ProbeState
    _release: Release
    _tags: Tags
    nonfinite: str

    @property
    def _parameters(self) -> Parameters:
        """The parameters as the groups have them now."""
        return self._membership.parameters

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, but matched by parameter name and exact: every tensor keeps its dtype, and bits.

        Raises HybridOptError, before anything is changed, for other parameters, shapes or treatments.
        """
        self._check_midway("load_state_dict")
        if not isinstance(state_dict, dict):
            raise HybridOptError(f"state_dict={shown(state_dict)} is not allowed; {matching.CURE}")
        self._parameters.windows.refresh()
        found: dict = {}
        log, pace = self._probing.read(state_dict), self._pace and self._pace.read(state_dict)
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, saved: self._matched(saved, found)),
            self.register_load_state_dict_post_hook(lambda _: self.state.update(found), prepend=True),
        )
        self._parameters.windows.pace = pace
        try:
            super().load_state_dict(state_dict)
            if self._pace is not None and pace is not None:
                self._pace.take(pace)
        finally:
            self._parameters.windows.pace = self._pace
            for hook in hooks:
                hook.remove()
        self._loaded_in_place.clear()
        self._probing.log = log
        self._probing.clear()  # probes of another step, along other directions
        self._check_remembered()

    def _matched(self, saved: dict, found: dict) -> dict:
        """Bring a saved state dict into the groups and the order of this optimizer; see `matching.match`."""
        windows, groups = self._parameters.windows, saved.get("param_groups")
        if isinstance(groups, list):
            saved = self._loaded_in_place.filled(saved | {"param_groups": regrouped(groups, windows.sections)})
        finite = self.nonfinite != "ignore"
        matched = matching.match(windows.sections, windows, saved, found, finite, self._tags.plan.leaves_out)
        return matched | {"param_groups": rejoined(self.param_groups, matched["param_groups"])}

    def state_dict(self) -> dict:
        """As torch's; a parameter without state has an empty entry, as torch.distributed.checkpoint wants it."""
        self._check_midway("state_dict")
        more = self._probing.saved() | (self._pace.saved() if self._pace else {})

        def add(_: torch.optim.Optimizer, saved: dict) -> None:
            matching.complete(saved, self.param_groups)
            sharded.write(saved, self.param_groups, self._parameters.windows)
            self._loaded_in_place.note(saved, self.param_groups)
            saved.update(more)

        hook = self.register_state_dict_post_hook(add, prepend=True)
        try:
            return super().state_dict()
        finally:
            hook.remove()

    def _check_remembered(self):
        """Warn of a run whose moments were left out, as torch.distributed.checkpoint does without requires_grad."""
        sections = self._parameters.windows.sections
        treated = ((group, self._tags.treatment(group)) for group in sections if group["step"])
        kept = [g for g, t in treated if t.probed and t.tag == "state-full" and t.full.slots((2, 2))]
        if kept and not any(self.state.get(p) for group in kept for p in group["params"]):
            warnings.warn(
                f"the saved state is of step {kept[0]['step']} and has nothing for {kept[0]['param_names'][0]!r} and "
                "others: their moments start anew. torch.distributed.checkpoint's state dict functions leave out "
                "parameters with requires_grad=False; save and load optimizer.state_dict() itself",
                HybridOptWarning,
                stacklevel=3,
            )

    def _check_midway(self, what):
        if self._release.midway:
            raise HybridOptError(f"{what}() in the middle of a step: backward has updated weights; call step() first")
