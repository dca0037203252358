"""What people are told at the end of a run: how it went, where things are, how to go on."""

from shlex import quote

from ...core.devices import device_here
from ...core.sizes import gib, human
from ...policy.batch_rates import told_of_noise
from ...policy.routes import read_policy
from ...saving.served import vllm_rank_of
from .finish import MERGED
from .prepare import Prepared
from .preparing.telling import many
from .train import Result

__all__ = ["ending"]


def ending(prepared: Prepared, result: Result) -> list[str]:
    """Return lines about a finished run.

    Args:
        prepared: the run.
        result: what came of it.
    """
    return [
        *_losses(prepared, result),
        *_memory(result, device_here(), prepared.chosen.estimate.request.device),
        *_noise(prepared, result),
        f"Everything lies in {result.folder}",
        *result.made,
        "",
        "Go on with:",
        *(f"  {line}" for line in _commands(prepared, result)),
    ]


def _losses(prepared: Prepared, result: Result) -> list[str]:
    early = " (ended early, by train.early_stopping)" if result.steps < prepared.rehearsal.steps else ""
    taken = many(result.steps) + early
    if result.best is not None:
        kept = result.metrics.get("eval_loss", result.best)
        return [f"{taken}; best eval loss {result.best:.4f}, of what is kept {kept:.4f}{_accuracy(result)}"]
    return [taken + ("" if result.loss is None else f"; last loss {result.loss:.4f}")]


def _accuracy(result: Result) -> str:
    found = result.metrics.get("eval_accuracy")
    return "" if found is None else f", accuracy {100 * found:.1f} %"


def _memory(result: Result, device: str, planned_for: str) -> list[str]:
    peak = result.measured.get("peak_bytes")
    if peak is None:
        return []
    if device == "cuda":
        return [f"Peak memory: {gib(peak)} measured, {gib(result.planned_bytes)} planned"]
    what = "the tensors of a step" if planned_for == device else "a GPU, with what CUDA itself takes there"
    return [
        f"Peak memory: {human(peak)} resident, Python and all libraries included; {human(result.planned_bytes)} "
        f"planned for {what}"
    ]


def _noise(prepared: Prepared, result: Result) -> list[str]:
    noise, train, method = result.measured.get("noise_examples"), prepared.run.train, prepared.run.method
    if noise is None:
        return []
    batch = train.batch * train.accumulate * prepared.ranks.world.size
    return [told_of_noise(float(train.lr), batch, noise, read_policy(method.policy, dict(method.options)))]


def _commands(prepared: Prepared, result: Result) -> list[str]:
    run, folder, base = prepared.run, quote(str(result.folder)), quote(prepared.run.model)
    merged = quote(str(result.folder / MERGED) if run.output.merge else f"{result.folder}-merged")
    causal, adapters = prepared.task.head == "causal", run.method.lora is not None
    found = [f"hybridopt chat {folder}"] if causal else []
    found += [f"hybridopt merge {folder} -o {merged}"] if adapters and not run.output.merge else []
    rank = vllm_rank_of(result.folder) if adapters else None
    if causal and rank is not None:
        found += [f"vllm serve {base} --enable-lora --lora-modules trained={folder} --max-lora-rank {rank}"]
    elif causal:
        found += [f"vllm serve {merged if adapters else folder}"]
    return [*found, f"hybridopt inspect {folder}"]
