"""A classification task from the Python that runs it: which standard-library package is this text from?

Whole modules are held out for testing, and training texts that resemble a held-out text are dropped.
"""

import re
import sysconfig
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path

from ...core.errors import HybridOptError
from .snippets import Snippet, module_paths, module_snippets

__all__ = ["CANDIDATES", "Corpus", "build", "hold_out", "without_resembling"]

# Packages that every ordinary CPython has, the larger first; those that distributions split off are left out.
CANDIDATES = (
    "asyncio",
    "email",
    "xml",
    "unittest",
    "multiprocessing",
    "importlib",
    "http",
    "urllib",
    "logging",
    "wsgiref",
    "ctypes",
    "concurrent",
    "json",
    "encodings",
)
CLASSES = 10
FEWEST_CLASSES = 4
FEWEST_MODULES = 3
FEWEST_SNIPPETS = 60
TRAIN_PER_CLASS = 110
TEST_PER_CLASS = 30
HELD_OUT = (0.2, 0.4)  # of a package's snippets: at least the first if possible, never above the second if possible
LONG_LINE = 30  # characters
RUN_OF_WORDS = 8


@dataclass(frozen=True)
class Corpus:
    """The texts of the classification task.

    Args:
        labels: names of the packages, sorted.
        train: training texts.
        test: texts of the modules that are held out.
        dropped: number of training texts that were dropped because they resembled a test text.
    """

    labels: tuple[str, ...]
    train: list[Snippet]
    test: list[Snippet]
    dropped: int

    @property
    def floor(self) -> float:
        """Return the test accuracy of always answering the test set's most frequent label."""
        return max(Counter(s.package for s in self.test).values()) / len(self.test)


def build(root: Path | None = None, seed: int = 0) -> Corpus:
    """Build the corpus: read the packages' texts, mask labels, hold out modules, drop resembling texts, balance.

    The same files and seed give the same corpus.

    Args:
        root: the standard library's folder; by default that of the running Python.
        seed: of the modules that are held out and the texts that are taken.

    Raises:
        HybridOptError: fewer than four of the candidate packages are there as source.
    """
    packages = _packages(Path(root or sysconfig.get_path("stdlib")))
    splits = [hold_out(snippets, seed) for snippets in packages.values()]
    test = _distinct(s for _, held in splits for s in _spread(held, TEST_PER_CLASS, seed))
    train, dropped = list[Snippet](), 0
    for kept, _ in splits:
        clean = without_resembling(kept, test)
        dropped += len(kept) - len(clean)
        train += _spread(clean, TRAIN_PER_CLASS, seed)
    order = partial(_rank, seed)
    return Corpus(tuple(sorted(packages)), sorted(train, key=order), sorted(test, key=order), dropped)


def hold_out(snippets: list[Snippet], seed: int) -> tuple[list[Snippet], list[Snippet]]:
    """Split one package's snippets by whole modules into (kept for training, held out for testing)."""
    sizes = Counter(s.module for s in snippets)
    least, most = (share * len(snippets) for share in HELD_OUT)
    held, taken = set[str](), 0
    for module in sorted(sizes, key=lambda name: _digest(seed, name)):
        if taken < least and taken + sizes[module] <= most:
            held.add(module)
            taken += sizes[module]
    held = held or {min(sizes, key=lambda name: (sizes[name], name))}
    return [s for s in snippets if s.module not in held], [s for s in snippets if s.module in held]


def without_resembling(train: list[Snippet], test: list[Snippet]) -> list[Snippet]:
    """Return the training snippets that resemble no test snippet.

    Two resemble each other if they share a line of 30 characters or a run of 8 words, in lower case with blanks
    collapsed; the words of a shorter text are one run.
    """
    seen = set().union(*(_marks(s.text) for s in test))
    return [s for s in train if not seen & _marks(s.text)]


def _marks(text: str) -> set[str]:
    """Return what two texts that do not resemble each other have not in common: long lines and runs of words."""
    lines = {" ".join(line.split()) for line in text.lower().splitlines()}
    words = re.findall(r"\w+", text.lower())
    runs = range(max(1, len(words) - RUN_OF_WORDS + 1))
    return {line for line in lines if len(line) >= LONG_LINE} | {
        " ".join(words[start : start + RUN_OF_WORDS]) for start in runs
    }


def _packages(root: Path) -> dict[str, list[Snippet]]:
    """Return the distinct snippets of the first ten candidate packages that have enough modules and texts."""
    present = tuple(name for name in CANDIDATES if (root / name / "__init__.py").is_file())
    enough: dict[str, list[Snippet]] = {}
    for name in present:
        found = _distinct(s for path in module_paths(root / name) for s in module_snippets(root, path, present))
        if len(found) >= FEWEST_SNIPPETS and len({s.module for s in found}) >= FEWEST_MODULES:
            enough[name] = found
    if len(enough) < FEWEST_CLASSES:
        raise HybridOptError(
            f"The demo needs the source of at least {FEWEST_CLASSES} standard-library packages, but {root} has "
            f"{', '.join(enough) or 'none'} of {', '.join(CANDIDATES)}. Run it with an ordinary CPython."
        )
    return dict(list(enough.items())[:CLASSES])


def _distinct(snippets: Iterable[Snippet]) -> list[Snippet]:
    """Return the first of all snippets whose texts differ only in case and blanks."""
    first: dict[str, Snippet] = {}
    for snippet in snippets:
        first.setdefault(" ".join(snippet.text.lower().split()), snippet)
    return list(first.values())


def _spread(snippets: list[Snippet], limit: int, seed: int) -> list[Snippet]:
    """Return at most `limit` snippets, in turns from each module, so that no large one crowds out the others."""
    modules: dict[str, list[Snippet]] = {}
    for snippet in sorted(snippets, key=partial(_rank, seed)):
        modules.setdefault(snippet.module, []).append(snippet)
    turns = [snippet for turn in zip_longest(*modules.values()) for snippet in turn if snippet]
    return turns[:limit]


def _rank(seed: int, snippet: Snippet) -> str:
    return _digest(seed, f"{snippet.module}\n{snippet.text}")


def _digest(seed: int, text: str) -> str:
    """Return a key to shuffle by, the same on every machine."""
    return blake2b(f"{seed}\n{text}".encode(), digest_size=16).hexdigest()
