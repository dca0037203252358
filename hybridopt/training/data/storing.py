"""Rows as a `datasets.Dataset`: in memory where they are few, in the cache of the library where they are many.

`load_dataset("json", ...)` reads values by guesses about their type: text such as "2020-01-01" in all rows of a column
comes back as "2020-01-01 00:00:00". Rows are therefore written with the types that their format has.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...core.errors import HybridOptError
from .survey import Survey

__all__ = ["quiet", "stored"]

PLAIN = {str: "string", bool: "bool", int: "int64", float: "float64"}  # types of columns that a format does not name
LONGEST = 300  # characters of another library's message


def stored(rows: Callable[[], Iterator[Mapping[str, Any]]], survey: Survey, fingerprint: str | None):
    """Return a Dataset of rows.

    Args:
        rows: begins to yield them anew.
        survey: of all of them, which knows their types.
        fingerprint: by which the cache finds them again; None: they are held in memory.
    """
    from datasets import Dataset

    features = _features(survey)
    try:
        if fingerprint is None:
            held: dict[str, list[Any]] = {name: [] for name in features}
            for row in rows():
                for name, column in held.items():
                    column.append(row.get(name))
            return Dataset.from_dict(held, features)
        return Dataset.from_generator(
            lambda: ({name: row.get(name) for name in features} for row in rows()),
            features=features,
            fingerprint=fingerprint,
        )
    except HybridOptError:
        raise
    except Exception as error:  # the library wraps what the rows raise
        raise _ours(error) from error


def _ours(error: Exception) -> HybridOptError:
    """Return the error of ours that another wraps, or one that tells of it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HybridOptError):
        cause = cause.__cause__
    why = " ".join(str(error).split())[:LONGEST]
    return cause or HybridOptError(f"the rows cannot be stored ({type(error).__name__}: {why})")


def _features(survey: Survey):
    """Return the types of all columns that any row has."""
    from datasets import Features, Json, List, Value

    message = {"role": Value("string"), "content": Value("string")} if survey.simple else Json()
    fixed = {"label": Value("int64"), "tools": List(Json())}
    known = (*survey.format.needed, *survey.format.optional)

    def kind(name: str, types: set[type]):
        if name in known:
            return fixed.get(name) or (List(message) if list in types else Value("string"))
        (only,) = types if len(types) == 1 else (None,)
        return Value(PLAIN[only]) if only in PLAIN else Json()

    return Features({name: kind(name, types - {type(None)}) for name, types in survey.kinds.items()})


@contextmanager
def quiet() -> Iterator[None]:
    """Let the datasets library show no bars of its own for a while."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
