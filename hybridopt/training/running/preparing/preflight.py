"""What can be found out about a run in no time: are its model and its data there, may it be written where it says?"""

from pathlib import Path

from ....core.errors import HybridOptError, nearest
from ....core.files.model_folders import CONFIG, cure_of
from ....planning.subject.hub import is_hub_name
from ...config.run import Run
from ...data.places import places
from ..run_folder import Place

__all__ = ["check_model", "check_there"]


def check_there(run: Run, resume: bool | None = None) -> None:
    """Look for what a run names, without torch, whose import takes seconds.

    Args:
        run: what is wanted.
        resume: whether a run in the output folder is to be gone on with; None: nothing will be written there.

    Raises:
        HybridOptError: something is not there, or the folder is not for this run.
    """
    if resume is not None:
        Place(run.output.folder).check(resume)
    check_model(run.model)
    for name in run.data.train:
        places(name, "data.train")
    if isinstance(run.data.eval, str):
        places(run.data.eval, "data.eval")


def check_model(model: str) -> None:
    """Raise HybridOptError unless a model is a folder, or could be one of the hub."""
    folder = Path(model).expanduser()
    if not folder.exists() and not is_hub_name(model):
        raise HybridOptError(
            f"model={model!r}: there is no folder {folder.absolute()} (paths are relative to where the command is "
            f"called); give a folder, or a model's name on the hub (org/name){_near(folder)}"
        )
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise HybridOptError(f"model={model!r} is a folder without a {CONFIG}; {cure_of(folder)}")
    if folder.is_file():
        raise HybridOptError(
            f"model={model!r} is a file; give a folder with config.json and weights, or a name on the hub, and then "
            "the data: hybridopt train MODEL DATA"
        )


def _near(folder: Path) -> str:
    """Return which folder beside it was probably meant, if any."""
    try:
        beside = [each.name for each in folder.absolute().parent.iterdir() if (each / CONFIG).is_file()]
    except OSError:
        return ""
    best = nearest(folder.name, beside)
    return f"; did you mean {folder.parent / best}?" if best else ""
