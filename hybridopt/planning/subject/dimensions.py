"""The dimensions of a planned model: transformers' configuration of it, or of one with fewer layers."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...core.errors import HybridOptError
from .building import no_model

__all__ = ["Subject"]

GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
DROPOUTS = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")


@dataclass(frozen=True)
class Subject:
    """Where the dimensions of a planned model come from.

    Args:
        name: as people call the model.
        settings: of transformers' configuration.
        source: where these come from, for people; "": they were given.
        place: a folder, or a name on the hub, from which the model could be loaded; None: not known.
    """

    name: str
    settings: dict[str, Any]
    source: str = field(default="", compare=False)
    place: str | None = field(default=None, compare=False)

    @cached_property
    def depth(self) -> int:
        """Return the number of repeated layers."""
        return self._config(None).num_hidden_layers

    @property
    def causal(self) -> bool:
        """Return whether it is trained to continue texts; not so encoders and classifiers."""
        return all(str(name).endswith(GENERATES) for name in self.settings.get("architectures") or ())

    def config(self, depth: int | None = None, cuda: bool = True) -> Any:
        """Return transformers' configuration of the model, or of one with `depth` layers.

        cuda: without dropout in the attention, as the kernels there keep no mask of it and those of a CPU do.
        """
        config = self._config(depth)
        config.use_cache = False
        for name in DROPOUTS:
            if cuda and hasattr(config, name):
                setattr(config, name, 0.0)
        return config

    def _config(self, depth):
        from transformers import AutoConfig

        def made(settings):
            return AutoConfig.for_model(**settings).get_text_config()

        settings = {name: value for name, value in self.settings.items() if name != "quantization_config"}
        try:
            config = made(settings)
        except Exception as error:  # transformers raises many types
            raise no_model(self.name, settings, made) from error
        whole = getattr(config, "num_hidden_layers", None)
        if whole is None:
            raise HybridOptError(
                f"model={self.name!r}: its configuration has no num_hidden_layers, and only models of repeated layers "
                "are planned; give one of text"
            )
        if depth is not None:
            for key, value in list(vars(config).items()):
                if isinstance(value, list) and len(value) == whole:
                    setattr(config, key, value[:depth])
            config.num_hidden_layers = depth
        return config
