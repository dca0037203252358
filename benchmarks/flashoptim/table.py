"""From the records of the comparison with flashoptim to its tables."""

from statistics import mean

from ..shared.files import write
from ..shared.markdown import measured_with, spread
from ..shared.markdown import table as markdown
from ..shared.records import Records
from .held import WAYS
from .measure import SIZES

YARDSTICK = next(iter(WAYS))
TEXT = """# AdamW at 24-bit weights and 8-bit moments, beside flashoptim

`store="bf16_split"` and `codec="companded8"` come from the paper FlashOptim (Gonzalez Ortiz et al. 2026); this
compares them with the authors' package.

{bits}

A weight of 24 bits is off by at most {flash:.5f} last places of bfloat16 in flashoptim (127 steps to either side of
half a place) and {own:.5f} in hybridopt (256 steps to the place).
"""
ROUNDED = """## Rounding

- flashoptim rounds moments to nearest, and keeps the scale of 32 of them in float16, 2 bytes; hybridopt rounds at
  random between two levels, and keeps the scale of 128 in float32, 4 bytes.
- Off after 50 steps: how far the weight is from where float32 leads it, as a share of the way (root mean squares),
  for gradients of four sizes. float16 knows nothing below 6e-8, and the root of the second moment begins at 3 % of the
  gradient.
- Second moment of ended gradients: its root after 2,000 steps in which every second element has no gradient any more,
  as a multiple of float32's. 1 is right. Rounded to nearest, a step of 0.05 % is lost where the levels are further
  apart than that.
"""
QUALITY = """## Quality

A Llama of {parameters} parameters in bfloat16 on bytes of tinyshakespeare, {steps} steps of 16 x 64 bytes, rate 3e-3
with warm-up and cosine, gradients clipped to norm 1, the same rate for all: this compares ways to keep numbers, and
not methods. Loss on the last tenth of the text in nats a byte, mean and standard deviation over seeds {seeds}, and the
mean of the differences to float32 at the same seed. On the right gradients are as small as in a model of 7e9
parameters: clipped to norm 1, then times the root of the share of parameters.
"""


def publish(records: Records) -> str:
    """Write .md beside the records; return the tables."""
    there = {(one["part"], one["row"], one["seed"], one["parameters"]): one for one in records.some()}
    found = {key: one["found"] for key, one in there.items()}
    places = found["places", "both", None, None]
    text = TEXT.format(
        bits=bits(found["bits", "flashoptim", None, None]), flash=places["flashoptim"], own=places["hybridopt"]
    )
    parts = [text, ROUNDED, rounding(found)]
    runs = {key[1:]: one["found"] for key, one in there.items() if key[0] == "quality"}
    if runs:
        one = next(one for key, one in there.items() if key[0] == "quality")
        seeds = sorted({seed for _, seed, _ in runs})
        head = QUALITY.format(
            parameters=f"{one['found']['parameters']:,}",
            steps=one["settings"]["steps"],
            seeds=", ".join(map(str, seeds)),
        )
        parts += [head, trained(runs, seeds)]
    parts.append(measured_with(there["bits", "flashoptim", None, None]["environment"]))
    said = "\n".join(parts)
    write(records.path.with_suffix(".md"), said)
    return said


def bits(found: dict) -> str:
    """Return what came of the package's own kernel."""
    if "missing" in found:
        return f"The package's own kernel was not run; missing: {', '.join(found['missing'])}."
    differ = sum(found["differ"].values())
    return (
        f'The package refuses to work without a CUDA device ("{found["refusal"]}"). Its own kernel, carried out by '
        f"Triton's interpreter on a CPU, and the formulas in torch by which everything below is measured differ in "
        f"{differ} of the {found['numbers']:,} numbers of weight and state after {found['steps']} steps of gradients "
        "from 1 to 1e-9. Times cannot be compared so, and are not; nothing was run on a GPU."
    )


def rounding(found: dict) -> str:
    """Return the table of bytes, small gradients and ended ones."""
    header = ["kept", "bytes a parameter", *(f"off, gradients of {size:g}" for size in SIZES), "second moment, ended"]
    lines = []
    for way in WAYS:
        small = [f"{100 * value:.1f} %" for value in found["small", way, None, None]]
        lines.append([way, f"{found['bytes', way, None, None]:.3f}", *small, f"{found['ended', way, None, None]:.2f}"])
    return markdown(header, lines)


def trained(runs: dict, seeds: list[int]) -> str:
    """Return the table of losses.

    Args:
        runs: what was found, by way, seed and size of gradients.
        seeds: of all runs.
    """
    scales = sorted({scale for _, _, scale in runs}, key=lambda scale: scale or 0)
    header = ["kept"] + [said for scale in scales for said in (named(scale), "minus float32's")]
    return markdown(
        header, [[way, *(cell for scale in scales for cell in cells(runs, way, seeds, scale))] for way in WAYS]
    )


def named(scale: float | None) -> str:
    """Return what a column of losses is called."""
    return "loss" if scale is None else f"loss, gradients of {scale:g} parameters"


def cells(runs: dict, way: str, seeds: list[int], scale: float | None) -> list[str]:
    """Return loss, and its difference to float32's.

    Args:
        runs: what was found, by way, seed and size of gradients.
        way: of WAYS.
        seeds: of all runs.
        scale: of the gradients.
    """
    losses = [runs[way, seed, scale]["loss"] for seed in seeds if (way, seed, scale) in runs]
    if len(losses) < len(seeds):
        return ["–", "–"]
    apart = mean(loss - runs[YARDSTICK, seed, scale]["loss"] for loss, seed in zip(losses, seeds, strict=True))
    middle, error = spread(losses)
    return [f"{middle:.4f} ± {error:.4f}", f"{apart:+.4f}"]
