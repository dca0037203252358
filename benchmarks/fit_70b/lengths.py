"""The longest sequence that is planned to fit: no search on a GPU, and no simulation either."""

from hybridopt.core.errors import HybridOptError

from .scenarios import CONTEXT, SCENARIOS, SHORTEST
from .table import records_at

SAFE = 0.97  # of the room is planned for: plans are not exact, and an allocator's memory has gaps


def planned_length(name: str, size: str, card: int | None) -> int:
    """Return how many tokens should fit.

    The peak is nearly linear in the length, so it lies on the line through two predictions for the full size, which
    are among the results: that of the scenario, and that of the one after which it is measured.

    Args:
        name: of a scenario with a budget.
        size: of the model; a tiny one has no predictions, and takes a fixed length.
        card: bytes of the card's memory; None: no less than the budget.

    Raises:
        HybridOptError: a prediction is missing, or the scenario has no budget.
    """
    if size != "70b":
        return 4 * SHORTEST
    scenario, known = SCENARIOS[name], {record["scenario"]: record["predicted"] for record in records_at().all()}
    after, budget = scenario.after, scenario.budget
    if after is None or budget is None:
        raise HybridOptError(f"{name!r} fills no card, so that it has no longest sequence")
    if not {name, after} <= known.keys():
        raise HybridOptError(f"{name!r}: its length follows from predictions; make them with --simulate first")
    low, high = known[after], known[name]
    slope = (high["peak_bytes"] - low["peak_bytes"]) / (high["sequence"] - low["sequence"])
    room = SAFE * (min(budget, card or budget) - CONTEXT)
    return int(low["sequence"] + (room - low["peak_bytes"]) / slope)
