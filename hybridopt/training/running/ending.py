"""What people are told at the end of a run: how it went, where things are, how to go on."""

from ...core.sizes import gib, human
from .loading import device_here
from .prepare import Prepared
from .train import Result

__all__ = ["ending"]


def ending(prepared: Prepared, result: Result) -> list[str]:
    """Return lines about a finished run.

    Args:
        prepared: the run.
        result: what came of it.
    """
    return [
        *_losses(result),
        *_memory(result, on_gpu=device_here() == "cuda"),
        f"Everything lies in {result.folder}",
        *result.made,
        "",
        "Go on with:",
        *(f"  {line}" for line in _commands(prepared, result)),
    ]


def _losses(result: Result) -> list[str]:
    if result.best is not None:
        kept = result.metrics.get("eval_loss", result.best)
        return [
            f"{result.steps:,} steps; best eval loss {result.best:.4f}, of what is kept {kept:.4f}{_accuracy(result)}"
        ]
    return [f"{result.steps:,} steps" + ("" if result.loss is None else f"; last loss {result.loss:.4f}")]


def _accuracy(result: Result) -> str:
    found = result.metrics.get("eval_accuracy")
    return "" if found is None else f", accuracy {100 * found:.1f} %"


def _memory(result: Result, on_gpu: bool) -> list[str]:
    peak = result.measured.get("peak_bytes")
    if peak is None:
        return []
    if on_gpu:
        return [f"Peak memory: {gib(peak)} measured, {gib(result.planned_bytes)} planned"]
    return [
        f"Peak memory: {human(peak)} resident, Python and all libraries included; {human(result.planned_bytes)} "
        "planned for the tensors of a step"
    ]


def _commands(prepared: Prepared, result: Result) -> list[str]:
    run, folder = prepared.run, result.folder
    causal, adapters = prepared.task.head == "causal", run.method.lora is not None
    found = [f"hybridopt chat {folder}"] if causal else []
    found += [f"hybridopt merge {folder} -o {folder}-merged"] if adapters and not run.output.merge else []
    if causal:
        serve = f"vllm serve {run.model} --enable-lora --lora-modules trained={folder}"
        found += [serve if adapters else f"vllm serve {folder}"]
    return [*found, f"hybridopt inspect {folder}"]
