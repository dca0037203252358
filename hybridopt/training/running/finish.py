"""What a finished run leaves behind: model, card, report, and what else was asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.devices import device_here
from ...core.dtypes import DTYPES
from ...core.errors import HybridOptError
from ..config.run import Run
from ..output.folder import save
from ..watching.memory import tensor_map
from .interrupting import Stop
from .prepare import Prepared
from .records import end
from .resuming import data_notes
from .versions import versions

__all__ = ["MERGED", "finish"]

MERGED = "merged"


def finish(prepared: Prepared, model: Any, result: Any, stop: Stop) -> tuple[list[str], list[str]]:
    """Save the model, then what was asked for beside it; return what was made, and what could not be, for people.

    All processes that share the model call this; the first writes.

    Args:
        prepared: the run.
        model: trained.
        result: of the run, a `Result`.
        stop: whether Ctrl-C was pressed; the model and the report are made all the same.
    """
    folder, run = prepared.place.folder, prepared.run
    with stop.later("training is done and its result is being saved, then the run ends"):
        save(model, folder, prepared.rehearsal.job.tokenizer, card_of(prepared, result))
        if not prepared.ranks.leads:
            return [], []
        end(prepared, result.measured, tensor_map(model))
        made, problems = _made([lambda: _report(folder)])
    if stop.asked:
        return made, problems
    more, more_problems = _made(_further(folder, run))
    return made + more, problems + more_problems


def _made(makers: Iterable[Callable[[], str]]) -> tuple[list[str], list[str]]:
    """Return what was made, and what could not be: the model is saved, and that is not to be lost for a report."""
    made, problems = [], []
    for make in makers:
        try:
            made.append(make())
        except HybridOptError as error:
            problems.append(str(error))
    return made, problems


def _further(folder: Path, run: Run) -> Iterator[Callable[[], str]]:
    if run.output.merge and run.method.lora is not None:
        yield lambda: _merge(folder, DTYPES.get(run.train.dtype, "bfloat16"))
    push = run.output.push
    if push is not None:
        yield lambda: _push(folder, push)


def _report(folder: Path) -> str:
    from ..report.page import write

    return f"The report is {write(folder)}"


def _merge(folder: Path, dtype: str) -> str:
    from ...saving.merging.merge import merge

    return f"The merged model lies in {merge(folder, folder / MERGED, dtype=dtype).out}, in {dtype}"


def _push(folder: Path, name: str) -> str:
    from ..output.folder import push

    return f"Uploaded: {push(folder, name)}"


def card_of(prepared: Prepared, result: Any) -> dict[str, Any]:
    """Return what the model card tells.

    Args:
        prepared: the run.
        result: of the run, a `Result`.
    """
    run, train = prepared.run, prepared.run.train
    each = train.batch * train.accumulate * prepared.ranks.world.size
    told = {"steps": result.steps, "loss": result.loss, "best eval_loss": result.best, **result.metrics}
    memory = {"planned_bytes": result.planned_bytes, **result.measured}
    return {
        "base_model": run.model,
        "task": run.task,
        "data": data_notes(prepared.examples.files),
        "method": _method(run),
        "train": {"lr": train.lr, "epochs": train.epochs, "examples a step": each},
        "results": _known({name: value for name, value in told.items() if not name.endswith(TIMES)}),
        "memory": _known({k: v for k, v in memory.items() if k.endswith("bytes")} | {"device": device_here()}),
        "versions": versions(),
    }


TIMES = ("_runtime", "_per_second", "num_tokens")  # in what the Trainer tells of an evaluation


def _method(run: Run) -> dict[str, Any]:
    method = run.method
    lora = None if method.lora is None else f"rank {method.lora.r}"
    return _known({"policy": method.policy, **method.options, "lora": lora, "quantization": method.quantization})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
