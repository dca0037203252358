"""Go on with a run: only as it was, with the same data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from shlex import quote
from typing import Any

from ...core.errors import HybridOptError, shown
from ...policy.batch_rates import rounded_lr
from ...policy.routes import read_policy
from ..config.run import AUTO, Method, Run
from ..method.settling import GAP
from .run_folder import Place
from .sharing import shared_by

__all__ = ["check_data", "data_notes", "resumed"]

# What does not change what is learnt; files of data are compared by what they hold.
FREE: tuple[str, ...] = ("gpu", "margin", "output", "parallel", "data.train", "data.eval")
FREE += ("train.keep", "train.log_every", "train.report_to")


def resumed(asked: Run, place: Place, processes: int = 1) -> Run:
    """Return the run in a folder, to be gone on with.

    Args:
        asked: what is asked for now: all that it says of training must be as it was; "auto" is.
        place: of the run.
        processes: that are to carry it out.

    Raises:
        HybridOptError: something is asked for that was otherwise, naming the key and both values.
    """
    before = shared_by(processes, asked, place.before[0], place)
    asked = _settled(asked, before, processes, place)
    key, now, then = next(_differences(asked, before), (None, None, None))
    if key is not None:
        raise HybridOptError(
            f"--resume: {key} is {shown(now)} now, and was {shown(then)} when the run began ({place.run}); go on as "
            f"it was: hybridopt train {quote(str(place.run))} --resume, or start another run: -o OUT"
        )
    data = replace(before.data, train=asked.data.train, eval=asked.data.eval)
    train = replace(before.train, **{key: getattr(asked.train, key) for key in ("keep", "log_every", "report_to")})
    parallel = before.parallel if asked.parallel == AUTO else asked.parallel
    before = replace(before, gpu=asked.gpu, margin=asked.margin, output=asked.output, parallel=parallel)
    return replace(before, data=data, train=train)


def _settled(asked: Run, before: Run, processes: int, place: Place) -> Run:
    """Return what is asked for with what its length and batch decided when the run began, and as it is shared now."""
    method, train = asked.method, asked.train
    if _sizes(asked) == _sizes(place.before[0]):
        train = replace(train, batch=before.train.batch, accumulate=before.train.accumulate)
    if GAP in before.method.options and method.policy == before.method.policy:
        method = replace(method, options={GAP: before.method.options[GAP], **method.options})
    if train.lr_batch is not None:
        policy = read_policy(before.method.policy, dict(before.method.options))
        rate = rounded_lr(float(train.lr), train.lr_batch, train.batch * train.accumulate * processes, policy)
        train = replace(train, lr=rate, lr_batch=None)
    return replace(asked, method=method, train=train)


def _sizes(run: Run) -> tuple[int, int]:
    return run.train.batch, run.train.accumulate


def data_notes(files: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what is noted of the files of examples: name, rows, digest."""
    return [
        {"path": file.path, "rows": file.rows, "sha256": file.sha256 or file.revision, "eval": file.eval}
        for file in files
    ]


def check_data(place: Place, files: Sequence[Any]) -> None:
    """Raise HybridOptError unless the files hold what they held when the run began."""
    before = place.before[1].get("data") or []
    now = data_notes(files)
    for old, new in zip(before, now, strict=False):
        if old["sha256"] != new["sha256"]:
            raise HybridOptError(
                f"--resume: {new['path']} has SHA-256 {new['sha256']} now, and the run began with {old['sha256']} "
                f"({old['path']}, {old['rows']} rows); give the data that it began with, or start another run: -o OUT"
            )
    if len(before) != len(now):
        raise HybridOptError(
            f"--resume: there are {len(now)} files of data now, and the run began with {len(before)}: "
            f"{', '.join(old['path'] for old in before)}"
        )


def _differences(asked: Run, before: Run) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value asked for and value before of all that is otherwise and changes what is learnt."""
    filled = _filled(asked.method) if asked.method.policy == AUTO else []
    yield from _differ(asked, before, "", (*FREE, *filled))


def _filled(method: Method) -> list[str]:
    """Return the keys of a method that the planner filled in: of which nothing is said."""
    default = vars(Method())
    return [f"method.{key}" for key, value in vars(method).items() if value == default[key]]


def _differ(now: Any, then: Any, name: str, free: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    if name in free or now == AUTO:
        return
    if is_dataclass(now) and is_dataclass(then):
        for field in fields(now):
            own = f"{name}.{field.name}" if name else field.name
            yield from _differ(getattr(now, field.name), getattr(then, field.name), own, free)
    elif _plain(now) != _plain(then):
        yield name, now, then


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
