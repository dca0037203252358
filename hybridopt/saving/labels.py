"""Names of the classes of a classifier, which no file of adapters keeps."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..model.adapters import bare

__all__ = ["classes_of", "labels_of", "name_classes_"]


def classes_of(model: nn.Module) -> list[str]:
    """Return what a model's configuration calls its classes, in order, named or counted; empty where it has none."""
    names = getattr(getattr(bare(model), "config", None), "id2label", None)
    if not isinstance(names, dict) or sorted(names) != list(range(len(names))):
        return []
    return [str(names[number]) for number in range(len(names))]


def labels_of(model: nn.Module) -> list[str]:
    """Return the names that a model's configuration gives its classes, in order; empty where it only counts them."""
    found = classes_of(model)
    return [] if found == [f"LABEL_{number}" for number in range(len(found))] else found


def name_classes_(config: Any, labels: Sequence[str]) -> None:
    """Give the classes of a configuration of transformers their names, if there are as many."""
    if labels and getattr(config, "num_labels", None) == len(labels):
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
