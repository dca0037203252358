"""Ways to train a model of Llama-3-70B's shape on one GPU."""

from dataclasses import dataclass, field
from typing import Any

GIB = 2**30
CONTEXT = 0.7 * GIB  # of CUDA, beside the tensors, on a card that is to be filled
SHORT = (2048, 8192)  # tokens from whose planned peaks the longest sequence follows
SHORTEST = 64  # tokens, of the tiny model


@dataclass(frozen=True)
class Scenario:
    """A policy and what surrounds it.

    adapters: dtype of the LoRA weights. host: the frozen embedding table lies in the host's memory. chunk: tokens of
    which the loss is computed at a time; None takes transformers' own. sequences: lengths, a shorter one where the
    longer does not fit. budget: bytes of the card to be filled with the longest sequence that is planned to fit,
    instead. after: a scenario of the same model, which is measured first in the same process where both are asked for.
    seconds: after these it is stopped.
    """

    label: str
    policy: str
    options: dict[str, Any] = field(default_factory=dict)
    lora: int | None = 16
    adapters: str = "bf16"
    quantization: str | None = "nf4"
    release: str = "accumulate"
    checkpointing: bool = True
    host: bool = True
    chunk: int | None = 256
    sequences: tuple[int, ...] = (2048,)
    budget: int | None = None
    after: str | None = None
    seconds: int = 80
    zeroth: bool = False


ZEROTH: dict[str, Any] = {"checkpointing": False, "zeroth": True, "seconds": 70}
FRUGAL: dict[str, Any] = {"policy": "frugal", "release": "fused"}
SCENARIOS = {
    "frugal": Scenario("(a) nf4, LoRA, FRUGAL, fused release", **FRUGAL),
    "longest": Scenario(
        "(b) the same, longest sequence in 80 GiB", **FRUGAL, budget=80 * GIB, after="frugal", seconds=150
    ),
    "full": Scenario(
        "(c) bf16 full-parameter sign SGD, fused release",
        "signsgd",
        lora=None,
        quantization=None,
        release="fused",
        host=False,
        sequences=(2048, 1024, 512),
        seconds=90,
    ),
    "mezo": Scenario("(d) nf4, LoRA, MeZO", "mezo", {"eps": 1e-2}, **ZEROTH),
    "qzo": Scenario("(d) nf4, QZO on its scales", "qzo", lora=None, **ZEROTH),
    "qlora": Scenario("QLoRA with AdamW, as usual", "adamw", adapters="fp32", host=False, chunk=None),
}
