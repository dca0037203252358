"""What a finished run leaves behind: model, card, report, and what else was asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.run import Run
from .prepare import Prepared
from .records import versions
from .resuming import data_notes

__all__ = ["finish"]


def finish(prepared: Prepared, model: Any, result: Any) -> list[str]:
    """Save the model and what was asked for beside it; return what was made, for people.

    Args:
        prepared: the run.
        model: trained.
        result: of the run, a `Result`.
    """
    folder = prepared.place.folder
    _save(model, folder, prepared.rehearsal.job.tokenizer, card_of(prepared, result))
    return []


def card_of(prepared: Prepared, result: Any) -> dict[str, Any]:
    """Return what the model card tells.

    Args:
        prepared: the run.
        result: of the run, a `Result`.
    """
    run = prepared.run
    losses = {"loss": result.loss, "steps": result.steps, **result.metrics, "best eval_loss": result.best}
    memory = {"planned_bytes": result.planned_bytes, **result.measured}
    return {
        "base_model": run.model,
        "task": run.task,
        "data": data_notes(prepared.examples.files),
        "method": _method(run),
        "train": {"lr": run.train.lr, "epochs": run.train.epochs, "batch": run.train.batch * run.train.accumulate},
        "results": _known(losses),
        "memory": _known({key: value for key, value in memory.items() if key.endswith("bytes")}),
        "versions": versions(),
    }


def _method(run: Run) -> dict[str, Any]:
    method = run.method
    lora = None if method.lora is None else f"rank {method.lora.r}"
    return _known({"policy": method.policy, **method.options, "lora": lora, "quantization": method.quantization})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _save(model: Any, folder: Path, tokenizer: Any, card: Mapping[str, Any]) -> None:
    try:
        from ..output.folder import save
    except ImportError:  # INTERIM: until training.output is there
        model.hybrid.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return
    save(model, folder, tokenizer, card)
