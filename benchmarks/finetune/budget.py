"""What all runs of a task share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Sizes in examples and tokens; rates rise over `warmup` of the steps and fall to 0 at the end.

    window: steps between two choices of a subspace or layer, where a method has them and says nothing else. clip: the
    largest norm of all gradients together, as transformers' Trainer has it, or None. autocast: compute in bfloat16,
    over float32 weights.
    """

    steps: int
    window: int
    batch: int = 16
    max_length: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float | None = 1.0
    validation: int = 1000
    autocast: bool = True
