"""hybridopt_replay.safetensors: the scalars from which trained weights are rebuilt, and whose weights they are."""

import json
import math
from pathlib import Path

import torch

from ...core.contracts import Population
from ...core.errors import HybridOptError, check_count
from ...core.files import plain_json, tensors
from ...core.registry import build, unpack
from ...optimizer.probing.follow import replayable
from ...optimizer.probing.rates import check_rates
from ...policy.routes import pack_treatment
from ...policy.treatment import Treatment
from .trajectory import Endpoints, Group, Trajectory

__all__ = ["read", "write"]

FORMAT = 1
SPECIFICATION = 1  # of noise (NOISE.md), of its keys and of random rounding
WHAT, KEY = "the log of the run", "hybridopt_replay"
TENSORS = ("slopes", "rates", "counts")
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
GROUP = ("treatment", "seed", "others", "traces")


def write(run: Trajectory, path: Path) -> None:
    """Write a run: 4 bytes a step and direction, 4 + 16 a group wherever rates change, and the parameters' names."""
    names = run.traces.keys()
    header = {
        "format": FORMAT,
        "noise": SPECIFICATION,
        "samples": run.slopes.shape[1],
        "groups": [_packed(group, names) for group in run.groups],
    }
    numbers = {name: getattr(run, name) for name in TENSORS}
    tensors.save(numbers, path, {KEY: json.dumps(header, separators=(",", ":"))})


def read(path: Path) -> Trajectory:
    """Return the run in a file that `write` has written; raise HybridOptError, naming the file, for anything else."""
    where = f"{WHAT} {path}"
    header = _header(path, where)
    numbers = tensors.load(path, WHAT)
    if set(numbers) != set(TENSORS):
        raise HybridOptError(f"{where} must hold {', '.join(TENSORS)}, not {', '.join(sorted(numbers)) or 'nothing'}")
    groups = plain_json.take(header, "groups", list, where)
    samples = plain_json.take(header, "samples", int, where)
    check_count(where, "samples", samples, 1)
    check_rates(numbers["slopes"], numbers["rates"], numbers["counts"], len(groups), where)
    if numbers["slopes"].shape[1] != samples:
        raise HybridOptError(f"{where}: samples={samples}, but slopes are {tuple(numbers['slopes'].shape)}")
    return Trajectory(**numbers, groups=_groups(groups, samples, where))


def _header(path, where):
    text = tensors.metadata(path, WHAT).get(KEY)
    if text is None:
        raise HybridOptError(f"{where} is a safetensors file of something else: it has no {KEY!r} in its metadata")
    header = plain_json.parse(text, where)
    for key, known in (("format", FORMAT), ("noise", SPECIFICATION)):
        version = plain_json.take(header, key, int, where)
        if version != known:
            what = "was written in format" if key == "format" else "was trained with noise of version"
            raise HybridOptError(f"{where} {what} {version}, this hybridopt knows {known}; install one that knows it")
    plain_json.only(header, ("format", "noise", "samples", "groups"), where)
    return header


def _packed(group, names):
    others = {name: size for name, size in group.population.members if name not in names}
    traces = {name: _packed_trace(trace) for name, trace in group.traces.items()}
    return dict(zip(GROUP, (pack_treatment(group.treatment), group.seed, others, traces), strict=True))


def _packed_trace(trace):
    return [list(trace.shape), list(trace.seen), str(trace.dtype).removeprefix("torch."), trace.base, trace.result]


def _groups(packed, samples, where) -> tuple[Group, ...]:
    found = [_group(data, samples, where) for data in packed]
    names = [name for _, _, _, traces in found for name in traces]
    if not names or len(set(names)) < len(names):
        raise HybridOptError(f"{where} names no parameter, or one of them twice")
    return tuple(Group(t, seed, _population(found, t, others), traces) for t, seed, others, traces in found)


def _population(found, treatment, others):
    """Return all parameters that share the source of a treatment; their order does not matter to sources."""
    same = {n: trace.numel for t, _, _, own in found if t.source == treatment.source for n, trace in own.items()}
    return Population(tuple(sorted((others | same).items())))


def _group(data, samples, where):
    if not isinstance(data, dict):
        raise HybridOptError(f"{where}: a group is {data!r:.100}, not an object")
    plain_json.only(data, GROUP, where)
    packed, seed, others, traces = (
        plain_json.take(data, key, kind, where) for key, kind in zip(GROUP, (dict, int, dict, dict), strict=True)
    )
    check_count(where, "seed", seed, 0)
    for name, size in others.items():
        check_count(where, f"size of {name!r}", size, 0)
    treatment = build(Treatment, {key: unpack(value) for key, value in packed.items()})
    own = {name: _trace(name, mark, where) for name, mark in traces.items()}
    if (
        not all(replayable(treatment, trace.dtype) for trace in own.values())
        or treatment.source.scheme.samples != samples
    ):
        raise HybridOptError(f"{where}: no weights follow from {samples} slopes a step by {treatment}")
    return treatment, seed, others, own


def _trace(name, mark, where):
    kinds = (list, list, str, int, int)
    if not isinstance(mark, list) or tuple(map(type, mark)) != kinds or mark[2] not in DTYPES:
        raise HybridOptError(f"{where}: {name!r} must be [shape, seen as, dtype, base, result], not {mark!r:.100}")
    for number in (*mark[0], *mark[1], *mark[3:]):
        check_count(where, f"a number of {name!r}", number, 0)
    if math.prod(mark[0]) != math.prod(mark[1]):
        raise HybridOptError(f"{where}: {name!r} of shape {mark[0]} cannot be seen as {mark[1]}")
    return Endpoints(tuple(mark[0]), tuple(mark[1]), DTYPES[mark[2]], *mark[3:])
