"""The command `hybridopt rate`; what takes time to import is imported inside it."""

from typing import Annotated

import typer

__all__ = ["rate"]

Rate = Annotated[float, typer.Argument(help="A learning rate that is right for --batch.")]
Batch = Annotated[float, typer.Option(help="Examples or tokens of a step with this rate.")]
To = Annotated[float, typer.Option("--to", help="Those of a step with the rate that is asked for.")]
Policy = Annotated[str, typer.Option(help="A name of `hybridopt policies`, or a .json.")]
Noise = Annotated[
    float | None, typer.Option(help="The gradient's noise scale, in the same unit; far above by default.")
]


def rate(lr: Rate, batch: Batch, to: To, policy: Policy = "frugal", noise: Noise = None) -> None:
    """Say which learning rate to try first when the batch changes.

    Args:
        lr: good at `batch`.
        batch: examples or tokens of a step.
        to: those of a step with the new rate.
        policy: a name, or a path of a .json.
        noise: the gradient's noise scale, in the same unit.
    """
    from ..core.errors import check_number
    from ..policy.batch_rates import MOST, follows_size, lr_for_batch
    from ..policy.routes import read_policy

    check_number("rate", "lr", lr, 0)
    for option, value in {"--batch": batch, "--to": to, "--noise": 1 if noise is None else noise}.items():
        check_number("rate", option, value, 1e-9, MOST)
    new = lr_for_batch(lr, batch, to, policy, noise)
    grows = follows_size(read_policy(policy, {}))
    law = "in proportion to the batch" if grows else "as the root of the batch"
    end = "" if noise is None else ", and levels off above the noise" if grows else ", to a peak at the noise"
    typer.echo(f"{new:.3g}, for {to:g} in place of {batch:g}: the rate of {policy} goes {law}{end}")
