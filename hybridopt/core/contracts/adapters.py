"""What a library of adapters (LoRA and its relatives) is asked for."""

from abc import abstractmethod
from typing import Any, Protocol

import torch
from torch import nn

from .adapter_folders import AdapterFolders
from .scheme import Scheme

__all__ = ["Adapters"]


class Adapters(AdapterFolders, Protocol):
    """How adapters are put on a model, told apart from its base, saved and loaded again.

    Nothing here imports the library before one of its configurations or models is there.
    """

    wrapped: tuple[str, ...]
    """What it calls the layer that it has put itself around, as a member of itself."""

    writers: tuple[str, ...]
    """The methods of its layers that change the weights of the base, as merging does."""

    # ---- configurations

    @abstractmethod
    def takes(self, config: object) -> bool:
        """Return whether `config` is one of this library's configurations."""

    @abstractmethod
    def make_config(self, rank: int, **settings: Any) -> Any:
        """Return the configuration of LoRA of this rank, by default on all linear layers but the output layer.

        Args:
            rank: of the adapters.
            settings: alpha (scale; None: the library's own), targets ("all-linear", or names of modules), dropout,
                modules_to_save (names of modules that are trained in full beside the adapters), and head ("causal",
                "classes" or "score": the output layer of the model; of the latter two it is trained in full).
        """

    @abstractmethod
    def code(self, rank: int) -> tuple[str, str]:
        """Return `make_config` as code: the import line, and the expression."""

    @abstractmethod
    def rank(self, config: Any) -> int | None:
        """Return the rank of a configuration; None for adapters without."""

    # ---- before adapters are there

    @abstractmethod
    def changes_base(self, config: Any) -> bool:
        """Return whether adapters of a configuration begin by changing the base, or may."""

    @abstractmethod
    def check(
        self,
        model: nn.Module,
        config: Any,
        adapter: str = "default",
        scheme: Scheme | None = None,
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Return the names of the modules and parameters that would get adapters; raise where `attach` would fail.

        Args:
            model: what the adapters are for; it is not changed.
            config: of this library; anything else is refused.
            adapter: name of the adapter.
            scheme: by which the model is going to be quantized before.
            dtype: of the adapters; None: what the library makes.
        """

    @abstractmethod
    def absent(self, model: nn.Module, config: Any) -> str | None:
        """Return a sentence on modules that new adapters are for and a model does not have; None where it has all.

        Args:
            model: what the adapters are for; it may be on the meta device.
            config: of this library.
        """

    @abstractmethod
    def absent_kept(self, model: nn.Module, config: Any) -> str | None:
        """Return a sentence on modules to train as a whole that a model does not have; None where it has all.

        Args:
            model: what the adapters are for; it may be on the meta device.
            config: of this library.
        """

    @abstractmethod
    def useless_rank(self, adapted: nn.Module) -> str | None:
        """Return a sentence on adapters of more rank than their layers can use; None where next to nothing is lost.

        adapted: a model with adapters of this library, on the meta device or not.
        """

    @abstractmethod
    def preview(
        self,
        model: nn.Module,
        config: Any,
        adapter: str = "default",
        scheme: Scheme | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Return what `attach` would make of a copy of a model without memory; raise where it would fail.

        Args:
            model: what the adapters are for; it is not changed.
            config: of this library; anything else is refused.
            adapter: name of the adapter.
            scheme: by which the model is going to be quantized before.
            dtype: of the adapters; None: what the library makes.
        """

    @abstractmethod
    def kept_modules(self, adapted: nn.Module) -> list[str]:
        """Return the names that modules trained as a whole beside adapters, not to be quantized, have in the base."""

    @abstractmethod
    def attach(
        self,
        model: nn.Module,
        config: Any,
        adapter: str = "default",
        empty: bool = False,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Put adapters on a model in place and return the library's model.

        Args:
            model: what the adapters are for.
            config: of this library; it is not changed.
            adapter: name of the adapter.
            empty: is all of the model on the meta device, and so its adapters?
            dtype: of the adapters; None: what the library makes.
        """

    # ---- models with adapters

    @abstractmethod
    def owns(self, model: nn.Module) -> bool:
        """Return whether `model` is what `attach` returns."""

    @abstractmethod
    def is_injected(self, model: nn.Module) -> bool:
        """Return whether a model that it owns is the base itself with adapters in it, and no model around the base."""

    @abstractmethod
    def base(self, model: nn.Module) -> nn.Module:
        """Return the base model beneath the adapters of a model that it owns, or that was compiled; else `model`."""

    @abstractmethod
    def members(self, layer: nn.Module) -> tuple[str, ...]:
        """Return the names of the members of `layer` that are adapters; none for a layer without."""

    @abstractmethod
    def adapts(self, layer: nn.Module) -> bool:
        """Return whether this library has put itself in the place of a layer: around it, or with copies of it."""

    @abstractmethod
    def copies(self, layer: nn.Module) -> list[nn.Module]:
        """Return a layer that is trained as a whole with all its copies; empty where `layer` is not one of these."""

    @abstractmethod
    def replaced(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules of the base that copies stand for, whichever adapter of `model` is switched on."""

    @abstractmethod
    def altered(self, model: nn.Module) -> list[str]:
        """Return the names of the base parameters that were changed when the adapters of `model` were put on."""

    @abstractmethod
    def is_merged(self, layer: nn.Module) -> bool:
        """Return whether the adapter of `layer` is added into its base weight at the moment."""

    @abstractmethod
    def is_off(self, layer: nn.Module) -> bool:
        """Return whether the adapters of `layer` are switched off at the moment, all of them."""

    @abstractmethod
    def check_savable(self, model: nn.Module) -> None:
        """Raise HybridOptError for what no file keeps of the adapters on `model`, so that it would be lost."""

    @abstractmethod
    def base_name(self, name: str) -> str:
        """Return the name that a parameter of the base had before adapters; other names stay as they are."""

    @abstractmethod
    def original_name(self, name: str) -> str:
        """Return the name of the base parameter that a copy trained as a whole replaces; other names stay."""

    @abstractmethod
    def own_config(self, model: nn.Module) -> Any:
        """Return the configuration of the adapter "default", which `wrap` puts on a model; None without."""

    @abstractmethod
    def check_attached(self, model: nn.Module) -> None:
        """Raise HybridOptError if adapters that are on a model already could not be saved and loaded; change nothing.

        Args:
            model: one that it owns.
        """

    @abstractmethod
    def names(self, model: nn.Module) -> list[str]:
        """Return the names of all adapters, in the order in which they were added; none where they were taken off."""

    @abstractmethod
    def active(self, model: nn.Module) -> list[str]:
        """Return the names of the adapters that are switched on; none for other models."""
