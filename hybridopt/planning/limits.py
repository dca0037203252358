"""What sizes a plan may be asked for; torch is not imported, so that typos are told at once."""

from ..core.errors import HybridOptError, check_count

__all__ = ["PARALLEL", "check_pass", "check_size"]

PARALLEL = ("fsdp", "ddp")
LEAST = {"gpus": 1, "seq_len": 1, "batch": 1, "micro_batches": 1, "seed": 0, "lora": 1, "chunk": 1}
MOST = {"seq_len": 2**27, "batch": 2**20, "micro_batches": 2**40, "lora": 2**16, "gpus": 2**16, "chunk": 2**27}
TOKENS = 2**32  # of a pass: bytes of what is made of more are no 64-bit numbers


def check_pass(batch: int, seq_len: int) -> None:
    """Raise HybridOptError for more tokens of a pass than can be planned."""
    if batch * seq_len > TOKENS:
        raise HybridOptError(
            f"plan: batch={batch} sequences of seq_len={seq_len} are {batch * seq_len} tokens of a pass, and at most "
            f"{TOKENS} can be planned; take fewer or shorter sequences"
        )


def check_size(name: str, value: int) -> None:
    """Raise HybridOptError for a size of a `Request` that is no whole number, too small, or too large."""
    check_count("plan", name, value, LEAST[name])
    if value > MOST.get(name, value):
        raise HybridOptError(
            f"plan: {name}={value} is not allowed; give a whole number from {LEAST[name]} to {MOST[name]}"
        )
