"""Routes of methods that are made for matrices: everything else by AdamW."""

from dataclasses import replace

from ...core.contracts import Codec, Rule, Store
from ...core.registry import make
from ...parts.rules.adamw import AdamW
from ...parts.splits.empty import Empty
from ..routes import Route
from ..treatment import Treatment
from ._options import Places, shared_options

__all__ = ["WithoutState", "matrices", "without_state"]


@shared_options
class WithoutState(Places):
    """Options of policies that train matrices without state and everything else by AdamW, before those of `Places`.

    lr_scale is on the matrices' updates alone; betas and eps are AdamW's, and codec keeps its state.
    """

    lr_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    codec: str | Codec = "fp32"
    store: str | Store | None = None
    adapters = "split"


def matrices(policy: Places, body: Treatment, rest: AdamW) -> tuple[Route, ...]:
    """Return routes by which only `body` keeps its rule: "full" means state-full by `rest`.

    Args:
        policy: says where parameters of a role go.
        body: the treatment of linear and convolution weights.
        rest: the rule of everything else.
    """
    routes = policy.placed(body)
    return tuple(r if r.use is None or r.use is body else replace(r, use=replace(r.use, full=rest)) for r in routes)


def without_state(rule: Rule, policy: WithoutState) -> Treatment:
    """Return a treatment by `rule` and without state, which is AdamW wherever it is made state-full."""
    return Treatment(
        full=AdamW(policy.betas, policy.eps),
        free=rule,
        split=Empty(),
        codec=make("codecs", policy.codec),
        lr_scale=policy.lr_scale,
    )
