"""Whether a model has all the layers that a run wants adapters on."""

from dataclasses import replace

from ...core.errors import HybridOptError, known
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
    if said := usual_library().absent(model, adapters(lora, "causal")):
        raise HybridOptError(f"method.lora.targets: {said}")
    ends = {end for name, _ in model.named_modules() for end in (name, name.rpartition(".")[2])}
    for name in lora.modules_to_save:
        if not any(end == name or end.endswith(f".{name}") for end in ends):
            raise HybridOptError(
                f"method.lora.modules_to_save: {type(model).__name__} has no module {name!r}; "
                f"{known(name, {end for end in ends if end and '.' not in end and not end.isdigit()})}"
            )
