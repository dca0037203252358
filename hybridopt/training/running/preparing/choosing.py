"""The method of a run, planned for the sequences that it really has."""

import copy
from dataclasses import replace
from typing import Any

from ....core.contracts import TrainingTask
from ....core.errors import HybridOptError
from ...config.run import Run
from ...method.choosing import Chosen, Shape, least_change
from ...method.parallelism import choose_together
from .causality import check_causal
from .rehearsal import Rehearsal

__all__ = ["chosen_for", "shape_for", "with_head"]


def with_head(config: Any, task: TrainingTask, labels: tuple[str, ...] = ()) -> Any:
    """Return a copy of a model's configuration with the output layer that a task asks for.

    Args:
        config: of transformers.
        task: says which output layer.
        labels: names of the classes, where there are any.

    Raises:
        HybridOptError: transformers has no such model of this kind, or it sees the tokens that it is to predict.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    causal = task.head == "causal"
    found = copy.deepcopy(config)
    table = MODEL_FOR_CAUSAL_LM_MAPPING if causal else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in table:
        what = "continue texts" if causal else "classify texts"
        raise HybridOptError(
            f"model: {config.model_type!r} has no class of transformers that can {what}, as the task asks; take "
            "another model or task"
        )
    if causal:
        check_causal(config)
    if causal and any(name.endswith("ForConditionalGeneration") for name in config.architectures or ()):
        return found
    found.architectures = [table[type(config)].__name__]
    if task.head == "score":
        found.num_labels = 1
    elif not causal:
        found.id2label = dict(enumerate(labels))
        found.label2id = {name: number for number, name in enumerate(labels)}
    return found


def chosen_for(run: Run, task: TrainingTask, config: Any, rehearsal: Rehearsal, must_fit: bool = True) -> Chosen:
    """Return the run with its method filled in, and the estimate of what it takes.

    Args:
        run: what is asked.
        task: what is learnt.
        config: of the model with the task's output layer.
        rehearsal: says how long sequences and the run are.
        must_fit: whether a method is refused that does not fit.

    Raises:
        HybridOptError: nothing that is asked for fits, with the least change.
    """
    shape = replace(shape_for(run, task, rehearsal.longest), steps=rehearsal.steps)
    return choose_together(run, config, shape, must_fit)


def shape_for(run: Run, task: TrainingTask, longest: int) -> Shape:
    """Return how large a forward pass is, and how the trainer has the loss computed.

    Args:
        run: says how many sequences there are.
        task: what is learnt.
        longest: tokens of the longest sequence, before the task adds to it.
    """
    tokens = longest + task.more_tokens
    batch = run.train.batch * task.sequences
    passes, causal = run.train.accumulate, task.head == "causal"
    told = {"causal": causal, "generates": task.more_tokens > 0, "shards": task.shards}
    return Shape(tokens, batch, passes, **told, change=task.fuse_)


def less_than(run: Run, task: TrainingTask, config: Any, rehearsal: Rehearsal) -> str | None:
    """Return the least change of a run that takes less memory, as a line of YAML; None where there is none.

    Args:
        run: as it was carried out.
        task: what is learnt.
        config: of the model with the task's output layer.
        rehearsal: says how long sequences are.
    """
    return least_change(run, config, shape_for(run, task, rehearsal.longest))
