"""Whether a model has all the layers that a run wants adapters on."""

from dataclasses import replace

from ...core.errors import HybridOptError
from ...model.adapters import usual_library
from ...planning import Request
from ...planning.subject.model import Subject, skeleton
from ..config.run import Run
from .adapters import adapters

__all__ = ["check_targets"]

ALL = "all-linear"


def check_targets(run: Run, source: Subject) -> None:
    """Raise HybridOptError for a module that adapters are to be put on and the model does not have.

    Args:
        run: what is asked.
        source: the model.
    """
    lora = run.method.lora
    if lora is None or (lora.targets == ALL and not lora.modules_to_save):
        return
    settings = {name: value for name, value in source.settings.items() if name != "quantization_config"}
    model = skeleton(replace(source, settings=settings), Request(), source.depth)
    config = adapters(lora, "causal")
    if said := usual_library().absent(model, config):
        raise HybridOptError(f"method.lora.targets: {said}")
    if said := usual_library().absent_kept(model, config):
        raise HybridOptError(f"method.lora.modules_to_save: {said}")
