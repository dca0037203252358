"""Examples from files or the hub: found, recognized, checked row by row, stored, and partly held out."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console

from ...core.errors import HybridOptError
from ..config.run import Data
from .examples import Examples
from .holding_out import hold_out
from .labels import Labels
from .repeats import repeats_told
from .storing import quiet, stored
from .table import Table, table_of

__all__ = ["read"]

VERSION = 1  # of how rows become examples; another finds nothing of an older one in the cache


def read(data: Data, seed: int = 0, console: Console | None = None) -> Examples:
    """Read and check all examples of a run.

    Every row is looked at, and bad ones are told by file and line. Few rows are held in memory; many are kept in the
    cache of the datasets library (HF_DATASETS_CACHE), by what their files hold, so that changed files are read anew.

    Args:
        data: what the run says about its data.
        seed: of the choice of rows that are held out.
        console: where progress is shown for large files; None: nowhere.

    Raises:
        HybridOptError: for files that are missing, damaged or of no known format, and for rows that are.
    """
    with quiet():
        table = table_of(data.train, "data.train", data, console)
        labels = Labels(table.survey.labels) if table.survey.labels else None
        examples = Examples(
            format=table.survey.format,
            train=_stored(table, labels, console),
            eval=None,
            labels=labels.names if labels else (),
            told=(*table.told, *(labels.check() if labels else ())),
            files=table.files,
            conversational=table.survey.conversational,
            origins=table.origins,
            chats=table.chats,
        )
        if isinstance(data.eval, str):
            examples = _with_table(examples, table_of((data.eval,), "data.eval", data, console), labels, console)
        elif data.eval is not None:
            examples = _with_share(examples, data.eval, seed)
        return replace(examples, told=(*examples.told, *repeats_told(examples)))


def _with_share(examples: Examples, share: float, seed: int) -> Examples:
    """Return examples of which a share is held out."""
    rows = len(examples.train)
    kept, held = hold_out(rows, share, seed, examples.train["label"][:] if examples.labels else None)
    return replace(
        examples,
        train=examples.train.select(kept),
        eval=examples.train.select(held),
        told=(*examples.told, f"data.eval: {len(held)} of {rows} rows are held out, chosen by the seed"),
        origins=examples.origins.of(kept),
        eval_origins=examples.origins.of(held),
    )


def _with_table(examples: Examples, table: Table, labels: Labels | None, console: Console | None) -> Examples:
    """Return examples with the rows of another table to evaluate with."""
    kinds = [
        f"{each.name} ({'messages' if chats else 'text'})"
        for each, chats in (
            (table.survey.format, table.survey.conversational),
            (examples.format, examples.conversational),
        )
    ]
    if kinds[0] != kinds[1]:
        raise HybridOptError(f"data.eval is {kinds[0]}, but data.train {kinds[1]}; give examples of one format")
    if labels:
        labels.check_known(table.survey.labels)
    return replace(
        examples,
        eval=_stored(table, labels, console),
        told=(*examples.told, *table.told),
        files=(*examples.files, *table.files),
        chats=(*examples.chats, *table.chats),
        eval_origins=table.origins,
    )


def _stored(table: Table, labels: Labels | None, console: Console | None):
    """Return the rows of a table as a Dataset, with numbers for classes."""

    def rows() -> Iterator[dict[str, Any]]:
        for values in table.rows(console):
            yield values | {"label": labels.id(values["label"])} if labels else values

    return stored(rows, table.survey, _fingerprint(table, labels) if table.held is None else None)


def _fingerprint(table: Table, labels: Labels | None) -> str:
    """Return a digest of all that the stored rows depend on."""
    kinds = table.survey.kinds
    said = [
        VERSION,
        [[place.name, file.sha256, file.revision] for place, file in zip(table.places, table.files, strict=True)],
        [[each.format.name, sorted(each.theirs.items()), each.more] for each in table.columns],
        [[name, sorted(map(str, kinds[name]))] for name in sorted(kinds)],
        labels.names if labels else [],
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
