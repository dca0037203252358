"""From the records of the pre-training runs to the page with tables, verdicts and plot, and the table of the docs."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

from hybridopt.core.registry import names

from ..shared.files import write
from ..shared.markdown import human, measured_with, spread
from ..shared.markdown import table as markdown
from ..shared.places import RESULTS
from ..shared.plots import Point, plot
from ..shared.readme_marks import Block
from ..shared.records import Records
from .bench import records_at as records_in
from .budget import Budget
from .claims import CLAIMS, verdicts
from .methods import left_out as no_row
from .methods import ready
from .rows import STUDIES, rows
from .summary import Summary, difference, summaries

__all__ = ["BLOCK", "FILE", "publish", "records_at", "table"]

FILE = "pretrain.jsonl"
HEADER = ["method", "rate", "factor", "loss", "minus AdamW's", "in %", "state", "runs", "how far"]
DETAILS = ["method", "state as planned", "CPU ms a step", "of it update", "all places tried: rate x factor: loss"]


def records_at(path: Path = RESULTS / FILE) -> Records:
    """Return the records that lie in a file."""
    return records_in(path)


def publish(records: Records) -> str:
    """Write .md and .png beside the records; return the main table. SystemExit where there are none.

    Args:
        records: of all runs.
    """
    found = found_in(records.some())
    if not found:
        raise SystemExit(f"every run in {records.path} diverged")
    write(records.path.with_suffix(".md"), page(found))
    study = next(iter(found.values())).row.study
    mine = [row for row in found.values() if row.row.study == study]
    drawn = [row for row in mine if row.loss is not None]
    what = "held-out loss, nats per token" if drawn else "loss of the best short run, nats per token"
    plot([point(row) for row in drawn or mine], records.path.with_suffix(".png"), what)
    return "\n".join(f"{title(study)}{results(found, study)}" for study in studies(found))


def found_in(records: list[dict]) -> dict[str, Summary]:
    """Return the summaries of all rows that have records; SystemExit if a study's were not all made alike."""
    budgets: dict[str, Budget] = {}
    for record in records:
        budget = Budget.from_settings(record["settings"])
        if budgets.setdefault(record["study"], budget) != budget:
            raise SystemExit(
                f"study {record['study']}: records were made with {budgets[record['study']]} and {budget}"
            )
    return summaries(records, rows(ready(), list(STUDIES), budgets))


def table(records: list[dict]) -> str:
    """Return the main table, the other studies' and the verdicts, as the docs have them."""
    found = found_in(records)
    parts = [results(found, "main"), *(title(s) + results(found, s) for s in studies(found) if s != "main")]
    return "\n".join([*parts, claims(found)])


def studies(found: Mapping[str, Summary]) -> list[str]:
    """Return the studies that have rows, in order."""
    there = {row.row.study for row in found.values()}
    return [study for study in STUDIES if study in there]


def title(study: str) -> str:
    """Return the line above a study's table."""
    return f"{STUDIES[study].title}:\n\n"


def results(found: Mapping[str, Summary], study: str) -> str:
    """Return the table of a study: a line a row, those with full runs by their loss come before those without."""
    mine = [row for row in found.values() if row.row.study == study]
    base = found.get(f"{study}/adamw")
    return markdown(HEADER, [cells(row, base) for row in mine])


def cells(row: Summary, base: Summary | None) -> list[str]:
    """Return one line of a table.

    Args:
        row: what it shows.
        base: AdamW's, to compare with.
    """
    rate, factor = row.place
    losses = list(row.numbers.values())
    diverged = len(row.losses) - len(losses)
    return [
        row.row.method.label,
        f"{rate:g}" + (" (edge)" if row.fulls and row.edge else ""),
        f"{factor:g}",
        (shown(losses) if losses else "–") + (f" ({diverged} diverged)" if diverged else ""),
        *gains(row, base),
        human(row.state_bytes),
        f"{row.told['short']} short, {row.told['full']} full",
        row.stage,
    ]


def shown(values: list[float], sign: str = "") -> str:
    """Return mean and standard deviation; `sign` "+" for differences."""
    middle, error = spread(values)
    return f"{middle:{sign}.3f}" + (f" ± {error:.3f}" if len(values) > 1 else "")


def gains(row: Summary, base: Summary | None) -> tuple[str, str]:
    """Return loss minus the base's, seed by seed, and the same in percent of the base's."""
    if base is None or row is base or not difference(row, base)[2]:
        return "–", "–"
    pairs = [loss - base.numbers[seed] for seed, loss in row.numbers.items() if seed in base.numbers]
    return shown(pairs, "+"), f"{difference(row, base)[0] / (base.loss or 1):+.1%}"


def claims(found: Mapping[str, Summary]) -> str:
    """Return the claims with their verdicts and numbers, then those that no run says anything of yet."""
    told = verdicts(found)
    known = {text for text, *_ in told}
    untold = [claim.text for claim in CLAIMS if claim.text not in known]
    parts = [markdown(["claim", "verdict", "difference"], [list(one) for one in told])] if told else []
    parts += [fill(f"Of these there are no full runs yet: {'; '.join(untold)}.", 120) + "\n"] if untold else []
    return "\n".join(parts)


def point(row: Summary) -> Point:
    """Return the row's place in the plot; that of its best short run where there is no other."""
    losses = list(row.numbers.values()) or [row.search[row.place]]
    return Point(row.row.method.label, row.state_bytes, *spread(losses), not row.finished)


def page(found: Mapping[str, Summary]) -> str:
    """Return the whole page of results."""
    first = next(iter(found.values()))
    parts = [setting(first), *(f"## {title(s).strip().rstrip(':')}\n\n{results(found, s)}" for s in studies(found))]
    parts += [f"## The claims\n\n{RULE}\n\n{claims(found)}"]
    parts += [f"## What was tried\n\n{TRIED}\n\n{markdown(DETAILS, [details(row) for row in found.values()])}"]
    return "\n".join([*parts, left_out(), measured_with(first.record["environment"])])


RULE = """Differences are of reported losses, seed by seed, with the half-width of their 95 % interval (Student's t).
A claim is decided when the whole interval lies on one side of its bound: a bound of 0 for "ahead" and "better", of 1 %
of AdamW's loss otherwise. A single seed decides nothing."""
TRIED = "Short runs and full ones with seed 0, and their loss on the windows for choosing."


def details(row: Summary) -> list[str]:
    """Return one line on what was tried and what it took."""
    planned = row.record["planned_state_bytes"]
    tried = "; in full: ".join(
        ", ".join(place(p, losses[p]) for p in sorted(losses)) for losses in (row.search, row.fulls) if losses
    )
    name = row.row.method.label + ("" if row.row.study == "main" else f" ({row.row.study})")
    return [name, human(planned), f"{1e3 * row.step_seconds:.0f}", f"{1e3 * row.update_seconds:.1f}", tried]


def place(where: tuple[float, float], loss: float) -> str:
    """Return a rate and a factor with the loss there."""
    return f"{where[0]:g} x {where[1]:g}: " + (f"{loss:.3f}" if loss < float("inf") else "diverged")


def setting(row: Summary) -> str:
    """Return what stands above the tables: how all runs were made, in the numbers of one."""
    s, budget = row.record["settings"], row.row.budget
    tokens = budget.full_steps * s["batch"] * s["sequence"]
    made = f"""Every run of the main table: {row.record["parameters"]:,} parameters (hidden size {s["hidden"]},
{s["layers"]} layers, {s["intermediate"]} inside the MLP), float32 weights with bfloat16 autocast on {s["device"]}; a
BPE of {s["vocabulary"]} tokens trained on the text ({", ".join(s["train"])}). A full run is {budget.full_steps} steps
of {s["batch"]} x {s["sequence"]} tokens, {tokens:,} in all, the same ones in the same order for every method; a short
one is {budget.short_steps} steps with a schedule of its own. Warm-up {s["warmup"]:.0%}, cosine to {s["floor"]:.0%},
clipped to a norm of {s["clip"]:g}, no weight decay; windows (of FRUGAL, GaLore, BAdam and others) are of
{budget.update_gap(budget.full_steps)} steps in a full run, of {budget.update_gap(budget.short_steps)} in a short one.
{cost(row)}"""
    return f"""# A small Llama from random weights: held-out loss against bytes of optimizer state

{fill(made, 120)}

**How rates were chosen**, the same way for every method, on {s["choosing"]} windows from the first half of
{s["held_out"]}; what is reported is the loss on {s["reporting"]} windows from its second half, which chose nothing:
1. short runs, seed 0: four rates a factor of about three apart with factor 4 on the rate of embeddings and output
   layer, one rate more (at most three) while the best is the outermost; then factors 1 and 10 at the two best rates,
   and again a rate more while the best is the outermost;
2. full runs, seed 0: at the best; then at the next higher rate with the same factor unless it lost by more than 0.5 in
   its short runs, and at the next lower one unless it lost by more than 0.05 there (short runs favour low rates), and
   so on (at most three) while the best of the full runs is the outermost of them ("edge": it still is);
3. full runs with the other seeds at the best. Seeds decide the weights, the order of the text and the subspaces. In
   the main table AdamW, FRUGAL at ρ=0.25 with signs, whitening and Sinkhorn have five: three left open whether they
   are within 1 % of AdamW.

Other studies start from the choice of the main table (8 M parameters: of 2 M, 16,384 tokens: of 4,096): short runs at
that rate and its two neighbours with its factor, then all seeds at the best.

- The factor (`embeddings_lr_scale`) multiplies the rate of embeddings and output layer, whatever scale a method has
  for its matrices. GaLore's own scale is set to 1 here: its rate is that of the matrices, and the factor is between
  embeddings and matrices as for all others. (With the default scale of 0.25 its embeddings train at 4 times the
  matrices' rate before any factor.)
- ± is the standard deviation over seeds; differences are taken seed by seed. A row with fewer seeds than others, or
  with a search alone, says so: its numbers are no result yet.
- State is the most that `optimizer.state` held in tensors.
- CPU times are of the least disturbed run, on one thread; the update is the mean over steps, with its share of
  choosing subspaces anew.

![held-out loss against bytes of optimizer state](pretrain.png)
"""


def cost(row: Summary) -> str:
    """Return what a full run takes, which is why the table is no larger."""
    s, hours = row.record["settings"], row.step_seconds * row.row.budget.full_steps / 3600
    width = f"{s['batch'] * s['sequence']:,} tokens a step"
    return (
        f"A full run of {row.row.method.label} takes {60 * hours:.1f} CPU minutes ({width}), and a row about 6 times "
        "that: hence 1 M parameters and 1 M tokens in the main table, and 2 M parameters for the decisive rows alone."
    )


def left_out() -> str:
    """Return a line on each reason for which policies have no row."""
    there = {name: why for name in names("policies") if (why := no_row(name))}
    groups = {why: [f"`{name}`" for name in there if there[name] == why] for why in there.values()}
    return "\n".join(f"Left out: {', '.join(group)}: {why}." for why, group in groups.items()) + "\n"


BLOCK = Block("pretrain", "python -m benchmarks.pretrain --table --write", table)
