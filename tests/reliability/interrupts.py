"""Ctrl-C at a random line: within a step, within a backward pass that updates, within a probe."""

import random
import sys
from pathlib import Path

import hybridopt
from hybridopt import HybridOptError
from support.attacks import Attack
from support.models import batch, tiny_llama

ROOT = f"{Path(hybridopt.__file__).parent}/"
WAYS = (
    {"policy": "frugal", "density": 0.25, "update_gap": 2},
    {"policy": "adamw", "codec": "int8"},
    {"policy": "galore", "density": 0.25, "update_gap": 2},
    {"policy": "badam", "update_gap": 2},
    {"policy": "adalomo", "release": "fused"},
    {"policy": "frugal", "density": 0.25, "release": "fused"},
    {"policy": "mezo"},
    {"policy": "subzero", "rank": 2},
    {"policy": "addax"},
)


class _Interrupt:
    """Counts lines of hybridopt that run, and raises KeyboardInterrupt at the n-th; without n it only counts."""

    def __init__(self, at=None):
        self.at, self.lines = at, 0

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *error):
        sys.settrace(self._before)

    def _call(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(ROOT) else None

    def _line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def _setting(way):
    model = hybridopt.wrap(tiny_llama(), **{k: v for k, v in way.items() if k != "release"})
    return model, model.hybrid.optimizer(lr=1e-3, release=way.get("release", "accumulate"))


def _step(model, optimizer, seed):
    inputs = batch(model, seed=seed)
    if optimizer.probes_needed:
        optimizer.probe(lambda: model(**inputs).loss)
    if optimizer.gradients_needed:
        model(**inputs).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def interrupted(seed):
    """Interrupt one step at a random line, then go on."""
    rng, way = random.Random(seed), WAYS[seed % len(WAYS)]
    model, optimizer = _setting(way)
    _step(model, optimizer, 0)
    with _Interrupt() as counted:
        _step(model, optimizer, 1)
    model, optimizer = _setting(way)
    _step(model, optimizer, 0)
    owners = {name: id(p) for name, p in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    at, where = rng.randrange(1, counted.lines + 1), "in a step"
    probing = optimizer.probes_needed and not optimizer.gradients_needed
    try:
        with _Interrupt(at):
            _step(model, optimizer, 1)
    except KeyboardInterrupt:
        pass
    text = f"{way}, line {at} of {counted.lines}"
    assert owners == {name: id(p) for name, p in model.named_parameters()}, f"{text}: other tensors are in place"
    shifted = [n for n, p in model.named_parameters() if p.shape != before[n].shape or not p.isfinite().all()]
    assert not shifted, f"{text}: {shifted} have other shapes or are not finite"
    optimizer.zero_grad()
    if optimizer.release != "accumulate":
        optimizer.step()  # ends the step, as its errors say
    for number in range(2, 5):
        try:
            _step(model, optimizer, number)
        except HybridOptError as error:
            raise AssertionError(f"{text}: cannot go on: {error}") from error
    assert all(p.isfinite().all() for p in model.parameters()), f"{text}: weights are not finite"
    again = hybridopt.wrap(tiny_llama(), **{k: v for k, v in way.items() if k != "release"})
    again.load_state_dict(model.state_dict())
    again.hybrid.optimizer(lr=1e-3, release=optimizer.release).load_state_dict(optimizer.state_dict())
    return "in probes alone" if probing else where


ATTACKS = {
    "Ctrl-C": Attack(
        "KeyboardInterrupt at a random line of hybridopt within a step, a fused backward pass or a probe",
        "the model's own tensors are in place and finite, training goes on, its state loads elsewhere",
        interrupted,
        rounds=300,
        few=9,
    ),
}
