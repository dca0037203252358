"""List ways to train as plain data, ranked by how close they are to AdamW on every weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...core.registry import names
from ...model.placement.placement import Placement
from ...model.quantization.scheme_names import usual
from ...optimizer.releases import release_class

__all__ = ["CHANGES", "SHORTEST", "VARIANTS", "WAYS", "Way"]


@dataclass(frozen=True)
class Way:
    """One way to train: a policy, adapters and quantization.

    Args:
        title: for people.
        policy: by name.
        why: what is given up against the way before it.
        options: of the policy.
        lora: rank of LoRA adapters; None: no adapters.
        quantization: scheme of the base; None: not quantized.
        placement: where layers rest; None: on the device.
    """

    title: str
    policy: str
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: int | None = None
    quantization: str | None = None
    placement: Placement | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments of a Request that this way fixes."""
        return {
            "policy": self.policy,
            "options": dict(self.options),
            "lora": self.lora,
            "quantization": self.quantization,
            "placement": self.placement,
        }


EIGHT, FOUR, TRAINED = usual(bits=8), usual(bits=4), usual(bits=8, trains=True)  # quantization schemes

# The order is a judgement, not a measurement: all weights by AdamW with exact state; then with rounded state; then a
# part of the weights at a time; then coarser second moments; then rounded weights; then adapters alone, on a base
# that is rounded more and more; last without gradients, whose steps are noisy and many.
WAYS = (
    Way("AdamW", "adamw", "nothing"),
    Way("AdamW, 8-bit state", "adamw", "the state is rounded to 8 bits, blockwise", {"codec": "int8"}),
    Way("FRUGAL, a half by AdamW", "frugal", "half of the linear weights by signSGD, in turns", {"density": 0.5}),
    Way("FRUGAL, a quarter by AdamW", "frugal", "three quarters by signSGD, in turns", {"density": 0.25}),
    Way("FRUGAL, a quarter, 8-bit state", "frugal", "state in 8 bits", {"density": 0.25, "codec": "int8"}),
    Way("FRUGAL, 5 %, 8-bit state", "frugal", "95 % by signSGD, in turns", {"density": 0.05, "codec": "int8"}),
    Way("Adam-mini", "adam_mini", "one second moment for each head or neuron"),
    Way("AdaLomo", "adalomo", "no first moment, factored second moments"),
    Way(f"FRUGAL, 5 %, {TRAINED.title} weights", "frugal", "weights in 8 bits, trained with stochastic rounding",
        {"density": 0.05, "codec": "int8"}, quantization=TRAINED.name),
    Way("AdamW on LoRA", "adamw", "only adapters are trained", lora=16),
    Way(f"AdamW on LoRA, {EIGHT.title} base", "adamw", "the frozen base is rounded to 8 bits", lora=16,
        quantization=EIGHT.name),
    Way(f"AdamW on LoRA, {FOUR.title} base", "adamw", "the frozen base is rounded to 4 bits (QLoRA)", lora=16,
        quantization=FOUR.name),
    Way(f"FRUGAL on LoRA, {FOUR.title} base", "frugal", "a quarter of the adapters by AdamW with 8-bit state",
        {"density": 0.25, "codec": "int8"}, lora=16, quantization=FOUR.name),
    Way("MeZO", "mezo", "no gradients: random directions, many more steps"),
    Way(f"MeZO on LoRA, {EIGHT.title} base", "mezo", "no gradients, only adapters", {"eps": 1e-2}, 16, EIGHT.name),
    Way(f"MeZO on LoRA, {FOUR.title} base", "mezo", "no gradients, only adapters, 4-bit base", {"eps": 1e-2}, 16,
        FOUR.name),
)  # fmt: skip

# Of each way the first variant that fits is taken: none of them changes what is learned, and each costs something:
# release="fused" clipping by the norm of all gradients in one pass, `chunk` (hybridopt.chunked_loss) the logits beside
# the loss, and checkpointing time.
CHUNK = 256  # tokens
# Those that free gradients last: the search takes the last variant for the smallest.
RELEASES = sorted(names("releases"), key=lambda name: release_class(name).frees_gradients)
VARIANTS: tuple[dict[str, Any], ...] = tuple(
    {"checkpointing": again, "chunk": chunk, "release": release}
    for again in (False, True)
    for chunk in (None, CHUNK)
    for release in RELEASES
)

# What could be changed where none fits, the least harmful first; texts are for people.
CHANGES = (
    ("one sequence at a time, batch={micro_batches} as micro-batches", {"batch": 1}),
    ('codec="int8"', {"codec": "int8"}),
    ("density=0.05", {"density": 0.05}),
    ("sequences of {seq_len} tokens", {"seq_len": 0.5}),
    ("LoRA (r=16)", {"lora": 16}),
    ('quantization="{quantization}"', {"quantization": EIGHT.name}),
    ('quantization="{quantization}"', {"quantization": FOUR.name}),
    ('LoRA (r=16), quantization="{quantization}"', {"lora": 16, "quantization": EIGHT.name}),
    ('LoRA (r=16), quantization="{quantization}"', {"lora": 16, "quantization": FOUR.name}),
)
SHORTEST = 128  # tokens: shorter sequences are not proposed
