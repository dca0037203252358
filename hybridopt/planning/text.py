"""An estimate in words: the rows of its table, and the table as plain text."""

from typing import TYPE_CHECKING

from ..core.sizes import human
from ..model.activations.scheme import written
from .placement.descriptions import placed_rows, shown_placement

if TYPE_CHECKING:
    from .estimate import Estimate

__all__ = ["HEAD", "NUMBERS", "as_text", "rows", "title", "worked"]

HEAD = ("what", "bytes", "share", "that is")
NUMBERS = ("bytes", "share")
MEANING = {
    "weights": "parameters and buffers, as they are kept",
    "quantization": "scales and tables of quantized weights",
    "near": "weights of layers that rest elsewhere, while they are on the device",
    "gradients": "alive at the peak",
    "state": "of the optimizer, in its largest window",
    "activations": "made by the forward pass, alive at the peak",
    "temporaries": "made after it, alive at the peak",
    "collectives": "gathered weights, and gradients on their way between GPUs",
    "overhead": "CUDA context and workspaces: an allowance",
}


def rows(estimate: "Estimate") -> list[tuple[str, str, str, str]]:
    """Return a row for every part: name, bytes, share of the peak and meaning; the last one is the peak's."""
    peak = estimate.peak_bytes
    here = {"near": estimate.carried is not None, "collectives": estimate.request.gpus > 1}
    shown = {name: size for name, size in estimate.parts.items() if here.get(name, True)}
    parts = [(name, human(size), f"{size / peak:.1%}", MEANING[name]) for name, size in shown.items()]
    return [*parts, ("peak", human(peak), "", f"at: {estimate.stage}")]


def title(estimate: "Estimate") -> str:
    """Return which model is trained how."""
    r = estimate.request
    lora = f", LoRA r={r.lora}{f' in {r.adapter_dtype}' if r.adapter_dtype else ''}" if r.lora else ""
    base = f" on {r.quantization}" if r.quantization else ""
    passes = f" x {r.micro_batches}" if r.micro_batches > 1 else ""
    how = f"{r.as_dict()['policy']}{lora}{base}, {r.release} release{', checkpointing' * r.checkpointing}"
    how += f", {shown_placement(r.placement)}" if r.placement else ""
    how += f", activations {written(r.kept)}" if r.kept else ""
    how += f", one of {r.gpus} GPUs ({r.parallel.upper()})" if r.gpus > 1 else ""
    how += f", loss by {r.chunk} tokens" if r.chunk else ""
    return f"{estimate.model}: {how}, {r.batch} x {r.seq_len} tokens{passes}"


def worked(estimate: "Estimate") -> str:
    """Return what a step computes and moves."""
    work = estimate.work
    counts = [(n, kind) for n, kind in ((work.forward, "forward"), (work.backward, "backward")) if n]
    passes = " and ".join(f"{n} {kind} pass{'es' * (n > 1)}" for n, kind in counts)
    return (
        f"a step: {passes}, {work.relative:.2f} x the multiplications of AdamW on all weights without checkpointing; "
        f"its update reads and writes {human(work.update)}"
    )


def as_text(estimate: "Estimate") -> str:
    """Return the table that `hybridopt plan` prints of an estimate, without colors."""
    body = [HEAD, *rows(estimate)]
    width = [max(len(row[i]) for row in body) for i in range(len(HEAD))]
    lines = ["  ".join(map(_fit, row, width, range(len(HEAD)))).rstrip() for row in body]
    rule = "-" * max(map(len, lines))
    left = [str(estimate.unquantized)] if estimate.unquantized is not None and estimate.unquantized.much else []
    placed = [f"{what}: {amount}, {meaning}" for what, amount, meaning in placed_rows(estimate)]
    told = [worked(estimate), *placed, *left]
    return "\n".join([title(estimate), rule, lines[0], rule, *lines[1:-1], rule, lines[-1], *told])


def _fit(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if HEAD[column] in NUMBERS else cell.ljust(width)
