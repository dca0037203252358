"""Data sets of the Hugging Face hub, and those that were saved with `save_to_disk`."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from ...core.errors import HybridOptError, known
from .faults import Faults
from .parquet_rows import plain

__all__ = ["HubSplit", "SavedDataset"]

SECONDS = 5  # to wait for an answer of the hub
LONGEST = 300  # characters of another library's message


class _Loaded:
    """Rows of a data set that the library of that name has loaded."""

    name: str

    @cached_property
    def dataset(self):
        """The data set; HybridOptError where it is not to be had."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Bytes of the table."""
        return self.dataset.data.nbytes

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.dataset.column_names

    def rows(self, faults: Faults, console: Console | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (number from 1, values by column) of every row; classes by their names.

        Args:
            faults: not needed, as a table has no broken rows.
            console: not needed, as the table is on this machine.
        """
        features = self.dataset.features
        classes = {name: kind.names for name, kind in features.items() if type(kind).__name__ == "ClassLabel"}
        texts = [name for name, kind in features.items() if type(kind).__name__ not in ("Image", "Audio", "Video")]
        for number, row in enumerate(self.dataset.select_columns(texts), 1):
            for name, names in classes.items():
                row[name] = names[row[name]] if row[name] is not None and row[name] >= 0 else None
            yield number, {name: plain(value) for name, value in row.items()}

    def where(self, line: int) -> str:
        """Return where a row stands, for people."""
        return f"{self.name}, row {line}"


@dataclass(frozen=True)
class SavedDataset(_Loaded):
    """A folder that `save_to_disk` of the datasets library has written.

    Args:
        path: of the folder.
        name: as people know it.
        split: of a folder with several; None: it has one alone.
    """

    path: Path
    name: str
    split: str | None

    @cached_property
    def dataset(self):
        """The data set, as it lies on disk."""
        from datasets import load_from_disk

        try:
            found = load_from_disk(str(self.path))
        except Exception as error:  # of pyarrow, of the library, and of the system
            raise HybridOptError(f"{self.name} is no whole data set of save_to_disk: {_line(error)}") from error
        if self.split is None:
            return found
        if self.split not in found:
            raise HybridOptError(f"{self.name}: there is no split {self.split!r}; {known(self.split, found)}")
        return found[self.split]

    def version(self) -> dict[str, str]:
        """Return the fingerprint of the data set."""
        return {"revision": self.dataset._fingerprint}


@dataclass(frozen=True)
class HubSplit(_Loaded):
    """A split of a data set on the hub.

    Args:
        id: "org/name".
        config: one of several parts of it; None: it has one alone.
        split: "train", "test", ...
        name: as people know it.
    """

    id: str
    config: str | None
    split: str
    name: str

    @cached_property
    def dataset(self):
        """The data set, from the cache of the library or downloaded into it."""
        from datasets import load_dataset

        try:
            with nullcontext() if _reachable(self.id) else _offline_mode():
                return load_dataset(self.id, self.config, split=self.split)
        except Exception as error:  # of the hub's library, of the one below it, and of the system
            raise HybridOptError(_refused(self, error)) from error

    def version(self) -> dict[str, str]:
        """Return the commit that was downloaded, or the fingerprint where it is not known."""
        files = self.dataset.info.download_checksums or {}
        commits = {file.partition("@")[2].partition("/")[0] for file in files if file.startswith("hf://")}
        return {"revision": commits.pop() if len(commits) == 1 else self.dataset._fingerprint}


def _reachable(id: str) -> bool:
    """Return whether the hub answers at all; the library itself tries for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(id, "README.md", repo_type="dataset"), timeout=SECONDS)
    except HfHubHTTPError:  # an answer, if no good one
        return True
    except Exception:  # of the hub's library, of the one below it, and of the system
        return False
    return True


@contextmanager
def _offline_mode() -> Iterator[None]:
    """Let the library look into its cache alone for a while."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _refused(hub: HubSplit, error: Exception) -> str:
    """Return why a data set is not to be had, and what to do."""
    kinds, text = [type(each).__name__ for each in _chain(error)], _line(error)
    if "GatedRepoError" in kinds or "gated" in text:
        return f"{hub.name}: the hub gives it to those alone who have asked; ask there, then: hf auth login ({text})"
    if "Config name is missing" in str(error) or "BuilderConfig" in text:
        return f"{hub.name}: {text}; a config is named as {hub.id}/CONFIG:{hub.split}"
    if "nknown split" in text or "split" in text.lower() and isinstance(error, ValueError):
        return f"{hub.name}: {text}; a split is named as {hub.id}:SPLIT"
    if _offline(error):
        return (
            f"{hub.name}: no file or folder of that name is here, it is not in the hub's cache, and there is no "
            f"network ({text}); check the name, or connect once to download it"
        )
    if "DatasetNotFoundError" in kinds:
        return f"{hub.name}: no such file or folder, and no such data set on the hub, or it is private: hf auth login"
    return f"{hub.name} cannot be loaded from the hub: {type(error).__name__}: {text}"


def _offline(error: Exception) -> bool:
    names = {type(each).__name__ for each in _chain(error)}
    known_names = {
        "OfflineModeIsEnabled",
        "ConnectionError",
        "ConnectError",
        "ConnectTimeout",
        "LocalEntryNotFoundError",
    }
    return bool(names & known_names) or "Couldn't reach" in str(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST]
