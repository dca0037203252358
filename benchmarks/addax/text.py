"""What stands above the Addax table: the model, the task, how it was measured, what it cannot show."""

from .arms import ARMS
from .examples import LONG, SHORT, Question

DIFFERS = {  # by what the long ones are asked
    "same": "reviews have to be weighed against each other, and the share of positive ones is another",
    "other": "reviews have to be weighed against each other, and question and answers are others",
}


def title(rows: list[dict]) -> str:
    """Return the text for these rows."""
    settings, seeds = rows[0]["settings"], sorted({seed for row in rows for seed in row["test"]})
    parts = [heading(rows[0]["weight_bytes"] // 4), task(settings), measured(settings, seeds)]
    return "\n".join(parts)


def heading(parameters: int) -> str:
    """Return what the model is."""
    return f"""# Addax and its neighbours on short and long reviews: accuracy, CPU seconds, bytes

The model: a causal language model of {parameters:,} parameters, trained from random weights on real text (WikiText-2,
two novels, BoolQ's passages, SST-2's sentences without labels), then warmed up on labelled SST-2 phrases under other
questions and answers than the task's. Without a warm start zeroth-order steps learn nothing from so small a model;
with it the model knows what a review says, but not yet how this question is answered.
"""


def task(settings: dict) -> str:
    """Return what the task is."""
    (least, most), long = settings["bundle"], LONG[settings["long"]]
    return f"""The task: half of the examples are short, an SST-2 phrase and then {asked(SHORT)},
as many of either. Half are long, {least} to {most} phrases on end, two thirds of them of the label that the whole
has, and then {asked(long)}, {settings["positive"]:.0%} positive. The short ones are meant to be no proxy for all:
{DIFFERS[settings["long"]]}. Whether they are one all the same is measured below.
Long is what has more than L_T = {settings["threshold"]} tokens.
"""


def asked(question: Question) -> str:
    """Return a question with its answers in words."""
    negative, positive = (answer.strip() for answer in question[1])
    return f'"{question[0].strip()}" {negative} or {positive}'


def measured(settings: dict, seeds: list[int]) -> str:
    """Return how it was measured, and what it cannot show."""
    mezo, addax, sgd = (ARMS[name] for name in ("mezo", "addax", "ip-sgd"))
    return f"""- {settings["train"]} training examples, constant learning rate, fp32.
- Of each step: MeZO probes {mezo.probes} examples; Addax {addax.probes} long ones, with gradients of {addax.gradients}
  short ones; Addax-WA as many of all lengths; the rest take gradients of {sgd.gradients}. Directions are Rademacher,
  eps 1e-3, of the library's own generator.
- Every arm had the same number of tries for learning rate (and α), by the best validation accuracy with seed 0. The
  arm with checkpointing computes what IP-SGD computes and takes its rate; MeZO with more steps takes MeZO's.
- Test accuracy is that of the weights that did best on {settings["validation"]} validation examples, looked at
  {settings["evaluations"]} times a run and before it; {settings["test"]} test examples from GLUE's dev set, whose
  sentences each come in several long ones. Mean ± standard deviation over seeds {", ".join(map(str, seeds))}; a seed
  draws batches and directions, and differences are taken seed by seed.
- CPU seconds are processor time of the steps alone, on one thread, median over seeds.
- Saved for backward: bytes that autograd keeps from forward to backward (of a checkpointed layer only its input). A
  step takes: the most allocated within a step beyond weights and state. Both on the longest batch there is.
- The criteria of the verdicts and the task with the same question came first. What is in brackets, the task with
  another question for the long ones, and MeZO with more steps were added after the first results.
- What this cannot show: the paper's numbers are for 13 billion parameters, 20,000 steps of MeZO and 1,000 of Addax.
  With so few parameters activations outweigh the weights, so that memory compares activations, and a direction says
  more in 0.7 million dimensions.
"""
