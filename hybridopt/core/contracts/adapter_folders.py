"""What a library of adapters is asked for when they are written into a folder, and read back from it."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from .merging import Merging
from .scheme import Scheme

__all__ = ["AdapterFolders"]

Whole = Callable[[Tensor], Tensor]


class AdapterFolders(Protocol):
    """How adapters are saved, checked, loaded again, and merged from the files that were saved."""

    files: tuple[str, ...]
    """The files that the library writes for one adapter, the weights first."""

    @abstractmethod
    def save(
        self, model: nn.Module, folder: str | Path, unstored: Collection[str] = (), whole: Whole | None = None
    ) -> list[str]:
        """Write every adapter of a model and return the names of the files, relative to `folder`.

        Args:
            model: that the library owns.
            folder: to write into.
            unstored: names of base parameters that no base has: the library saves those that it would save itself.
            whole: returns a sharded tensor in one piece; None: there are none.
        """

    @abstractmethod
    def saved_names(self, model: nn.Module, folder: str | Path) -> set[str]:
        """Return the names in `model.state_dict()` of all tensors that `save` has written into `folder`."""

    @abstractmethod
    def folder(self, adapter: str) -> Path:
        """Return where `save` puts the files of an adapter, relative to the folder."""

    @abstractmethod
    def prepare(self, base: nn.Module, folder: Path, adapters: Sequence[str], scheme: Scheme | None = None) -> None:
        """Make a temporary folder safe to read for the library; raise HybridOptError for what it would not write.

        Args:
            base: the model that the adapters are for; it is not changed.
            folder: what `save` has written, or links to it; changed.
            adapters: names of all adapters in it.
            scheme: by which the model is going to be quantized before.
        """

    @abstractmethod
    def check_saved(
        self,
        base: nn.Module,
        folder: str | Path,
        adapters: Sequence[str],
        active: Sequence[str] = (),
        injected: bool = False,
    ) -> set[str]:
        """Return the names of the parameters that `load` would add; raise for what it could not load, change nothing.

        Args:
            base: the model that the adapters are for.
            folder: what `save` has written.
            adapters: names of all adapters in it.
            active: those to be switched on, the first of `adapters` if empty.
            injected: were the adapters put into the model itself (`is_injected`)?
        """

    @abstractmethod
    def load(
        self,
        base: nn.Module,
        folder: str | Path,
        adapters: Sequence[str],
        is_trainable: bool = True,
        active: Sequence[str] = (),
        injected: bool = False,
    ) -> nn.Module:
        """Return `base` with the saved adapters on it, every tensor in the dtype that it was saved in.

        Args:
            base: the model that the adapters are for, changed in place.
            folder: what `save` has written.
            adapters: names of all adapters in it.
            is_trainable: whether the active ones require gradients.
            active: those to be switched on, the first of `adapters` if empty.
            injected: put the adapters into the model itself (`is_injected`)?
        """

    @abstractmethod
    def merging(
        self, base: nn.Module, folder: Path, adapters: Sequence[str], active: Sequence[str], injected: bool = False
    ) -> Merging:
        """Return what merging makes of the tensors of a base; raise for adapters that do not fit it.

        Args:
            base: on the meta device; changed in place, and of no further use.
            folder: what `save` has written, or links to it.
            adapters: names of all adapters in it.
            active: those to be merged.
            injected: were the adapters put into the model itself (`is_injected`)?
        """
