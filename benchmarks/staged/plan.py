"""What is planned for the steps, on any machine."""

from typing import Any

from hybridopt.model.placement.placement import Placement
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of

from ..shared.llama import SETS
from ..shared.llama_model import config_of
from ..shared.placed_names import PLACED, RESIDENT
from .measure import SLOTS
from .model import CHUNK, POLICY, RANK


def planned(size: str, device: str, how: str, tokens: int) -> dict[str, Any]:
    """Return bytes of a step as an allocator counts them, without the framework's own; or why there are none.

    Args:
        size: of SETS.
        device: "cpu" or "cuda".
        how: RESIDENT or PLACED.
        tokens: of the sequence.
    """
    places = {RESIDENT: None, PLACED: Placement("host", slots=SLOTS)}
    try:
        request = Request(
            POLICY,
            lora=RANK,
            quantization="nf4",
            seq_len=tokens,
            checkpointing=True,
            chunk=CHUNK,
            device=device,
            adapter_dtype="bfloat16",
            placement=places[how],
        )
        found = Estimator(subject_of(config_of(SETS[size]))).estimate(request)
    except Exception as error:  # of whatever kind: it is the result
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return {"peak_bytes": found.peak_bytes - found.overhead_bytes}
