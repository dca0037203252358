"""The demo's classification task: the corpus, tokenized."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import Example, encode
from .corpus import Corpus, build
from .encoder import tokenizer
from .result import DemoData

__all__ = ["DemoTask", "load"]


@dataclass(frozen=True)
class DemoTask:
    """The classification task that every run trains on.

    Args:
        labels: names of the packages.
        train: tokenized training texts.
        test: tokenized test texts.
        data: sizes to print.
    """

    labels: tuple[str, ...]
    train: list[Example]
    test: list[Example]
    data: DemoData

    @property
    def answers(self) -> Tensor:
        """Return the index of the right label of every test text, [texts]."""
        return torch.tensor([example.label for example in self.test])


def load(seed: int) -> DemoTask:
    """Build the corpus and tokenize it."""
    words, corpus = tokenizer(), build(seed=seed)
    train, test = (encode(part, corpus.labels, words) for part in (corpus.train, corpus.test))
    return DemoTask(corpus.labels, train, test, _sizes(corpus))


def _sizes(corpus: Corpus) -> DemoData:
    train, test = (len({s.module for s in part}) for part in (corpus.train, corpus.test))
    return DemoData(corpus.labels, len(corpus.train), len(corpus.test), train, test, corpus.dropped, corpus.floor)
