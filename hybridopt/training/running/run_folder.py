"""The folder of a run: what lies where, whether a run may begin there, and who holds it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ...core.errors import HybridOptError
from ...core.files import plain_json
from ...core.files.lock import locked
from ...core.files.model_folders import to_train_on
from ...core.files.paths import path_of
from ..config.reading import resolved
from ..config.run import Run

__all__ = ["Place"]

LAST = "trainer_state.json"  # is written last into a checkpoint
MODELS = ("config.json", "adapter_config.json", "*.safetensors")


class Place:
    """The folder that a run writes to.

    Args:
        folder: its path; it need not be there.
    """

    def __init__(self, folder: str | Path):
        self.folder = path_of(folder, "output.folder")
        self.run, self.plan, self.log = (self.folder / name for name in ("run.yaml", "plan.json", "log.jsonl"))
        self.checkpoints = self.folder / "checkpoints"

    @property
    def started(self) -> bool:
        """Return whether a run has begun here; a run.yaml alone is none yet."""
        return self.plan.is_file() and self.run.is_file()

    @cached_property
    def before(self) -> tuple[Run, Mapping[str, Any]]:
        """Return the run that has begun here, and what it was made with, as read when it is asked for first."""
        return resolved(self.run)

    @property
    def finished(self) -> bool:
        """Return whether a run has come to its end here."""
        return self.started and plain_json.read(self.plan, "plan").get("measured") is not None

    @property
    def saved(self) -> bool:
        """Return whether there is a complete checkpoint."""
        return any(self.checkpoints.glob(f"checkpoint-*/{LAST}"))

    def check(self, resume: bool) -> None:
        """Raise HybridOptError where a new run would spoil what is there, or there is nothing to resume."""
        self.check_writable()
        if resume:
            self._check_resumable()
        elif self.finished:
            raise HybridOptError(f"{self.folder} holds a finished run; give another folder: -o OUT")
        elif self.started and self.saved:
            raise HybridOptError(
                f"{self.folder} holds a run that is not finished; go on with it by --resume, or give another folder: "
                "-o OUT"
            )
        elif not self.started and (found := self._model()):
            raise HybridOptError(
                f"{self.folder} holds a model already ({found.name}), which a run would overwrite; give another "
                "folder: -o OUT"
            )

    def check_writable(self) -> None:
        """Raise HybridOptError where the folder cannot be made or written to, as far as the system says beforehand."""
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise HybridOptError(f"output.folder={str(self.folder)!r} is a file; give a folder: -o OUT")
        if os.path.islink(self.folder) and not os.path.exists(self.folder):
            where = os.readlink(self.folder)
            raise HybridOptError(
                f"output.folder={str(self.folder)!r} is a link to {where}, which is not there; make that folder, or "
                "give another: -o OUT"
            )
        there = next(
            path for path in (self.folder.absolute(), *self.folder.absolute().parents) if os.path.exists(path)
        )  # os.path tells no error where a parent must not be searched
        given = f"output.folder={str(self.folder)!r}"
        if not there.is_dir():
            raise HybridOptError(f"{given} lies below {there}, which is a file; give another folder: -o OUT")
        if not os.access(there, os.W_OK | os.X_OK):
            raise HybridOptError(f"{given}: {there} must not be written to; give another folder: -o OUT")

    def _check_resumable(self) -> None:
        if not self.started:
            raise HybridOptError(
                f"--resume: {self.folder.absolute()} holds no run that has begun; leave --resume out, or go to the "
                "directory that the run was started in, from which its paths are taken"
            )
        if self.finished:
            raise HybridOptError(
                f"--resume: the run in {self.folder} is finished; to train on, {to_train_on(self.folder)}"
            )
        if not self.saved:
            raise HybridOptError(
                f"--resume: the run in {self.folder} ended before its first checkpoint; start again without --resume"
            )

    def _model(self) -> Path | None:
        if not self.folder.is_dir():
            return None
        return next((file for pattern in MODELS for file in self.folder.glob(pattern)), None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out within; the folder is made.

        Raises:
            HybridOptError: another run is under way there.
        """
        with ExitStack() as undo:
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HybridOptError(f"{self.folder} cannot be made: {error.strerror}; give another -o") from error
            try:
                undo.enter_context(locked(self.checkpoints, exclusive=True, wait=0))
            except HybridOptError as error:
                raise HybridOptError(
                    f"{self.folder} is in use by another run; let it finish, or give another folder: -o OUT"
                ) from error
            yield

    def clear(self) -> None:
        """Remove what a run has left that was ended before its first checkpoint."""
        for file in (self.plan, self.log):
            file.unlink(missing_ok=True)
        for begun in self.checkpoints.glob("checkpoint-*"):  # and not complete, or there would be a run to go on with
            shutil.rmtree(begun)
