"""What stands above the table of the task that was designed for Addax."""

from .arms import BURIED
from .examples import LONG, SHORT
from .text import asked


def title(rows: list[dict]) -> str:
    """Return the text for these rows."""
    settings, seeds = rows[0]["settings"], sorted({seed for row in rows for seed in row["test"]})
    mezo, addax, sgd = (BURIED[f"buried-{name}"] for name in ("mezo", "addax", "ip-sgd"))
    (least, most), limit = settings["after"], settings["threshold"]
    return f"""# Addax on a task designed for it: accuracy, CPU seconds, bytes

Probes of long texts should help where long texts carry what short ones lack, where cutting loses it, and where their
gradients do not fit. [DESIGN.md](../addax/DESIGN.md) has the reasoning, the task and the criteria, written before the
runs, and what was changed after them. In short:

- Half of the examples are short, an SST-2 phrase and then {asked(SHORT)}. Half are long, a phrase among words of
  BoolQ's passages, {least} to {most} of them behind it, and then {asked(LONG[settings["long"]])}.
  Long is what has more than L_T = {limit} tokens; the last {limit} of a long one hold nothing of the phrase.
- The model: a causal language model of {rows[0]["weight_bytes"] // 4:,} parameters with its adapters, trained from
  random weights on real text, then on labelled phrases, alone and buried, under other questions and answers than the
  task's. {trained(sgd.options)}
- Of each step: MeZO probes {mezo.probes} examples; Addax {addax.probes} long ones, with gradients of {addax.gradients}
  short ones; the rest take gradients of {sgd.gradients}. Directions are Rademacher, eps 1e-3.
- {settings["train"]} training examples, constant learning rate, fp32. Learning rates (and α) were tried with seed 0,
  as listed below, and chosen by the best accuracy on {settings["validation"]} validation examples; the arm with
  checkpointing computes what IP-SGD computes and takes its rate. Test accuracy is that of the weights that did best on
  validation, on {settings["test"]} test examples. Mean ± standard deviation over seeds
  {", ".join(map(str, seeds))}; a seed draws batches and directions, and differences are taken seed by seed.
- CPU seconds are processor time of the steps alone, on one thread, median over seeds.
  Saved for backward: what autograd keeps from forward to backward. A step takes: the most allocated within a step
  beyond weights and state. Both on the longest batch there is.
"""


def trained(options: dict) -> str:
    """Return what of the model the arms train."""
    rank = options.get("rank")
    return f"All arms train LoRA of rank {rank} on all linear layers." if rank else "All arms train all weights."
