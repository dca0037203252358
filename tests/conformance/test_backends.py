"""Every backend, found by its folder, held to the eager `update`: the same bits, or within the stated bound."""

import sys
from dataclasses import replace

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.core import registry
from hybridopt.core.contracts import Backend
from hybridopt.core.contracts.fulfilment import lacking
from hybridopt.core.registry import find, names
from hybridopt.execution import backends as folder
from hybridopt.execution import dispatch, slices
from hybridopt.execution.backends import _compiled_kernels as kernels
from hybridopt.execution.backends import compiled
from hybridopt.execution.cpp import builder
from hybridopt.execution.update import update
from hybridopt.parts.stores._int8_weight import Int8Weight
from hybridopt.planning.trace.tracker import Tracker
from support.parts import CODECS, RULES
from support.updates import DTYPES, OPTIONS, Cell, cells, copy, later, tasks_of

BACKENDS = {name: find("backends", name)() for name in names("backends")}
SPLITS = ("whole", "empty", "columns", "randk", "svd")
YES, NO = torch.tensor(True), torch.tensor(False)
COMPILED = [  # by the compiler itself, which takes seconds for each
    Cell("adamw", "columns", "fp32", "fp32"),
    Cell("adalomo", "whole", "bf16", "fp32"),
]


@pytest.fixture
def small(monkeypatch):
    """What is small here is cut, stacked and compiled as large parameters are."""
    monkeypatch.setattr(slices, "ELEMENTS", {"cpu": 512})
    for name, value in {"SMALLEST": 64, "PIECE": 500, "BLOCKS": 512, "CREW": 2}.items():
        monkeypatch.setattr(compiled, name, value)
    monkeypatch.setattr(kernels, "_kernels", {})
    monkeypatch.setattr(kernels, "_broken", set())


@pytest.fixture
def traced(small, monkeypatch):
    """Kernels are the functions themselves: what is checked is everything around the compiler."""
    monkeypatch.setattr(kernels, "_compile", lambda function, device: function)


def seen_by(backend, cell):
    """The cell's tasks as the backend is given them; none where it does not fit."""
    tasks = tasks_of(cell)
    here = backend.devices is None or "cpu" in backend.devices
    seen = [task.in_blocks() if backend.in_blocks else task for task in tasks]
    return seen if here and all(map(backend.fits, seen)) else []


def check(backend, cell):
    """Two steps by the backend, each compared with the eager update from the same start; did it fit?"""
    random, tasks = torch.Generator().manual_seed(6), seen_by(backend, cell)
    for _ in range(2):
        wanted = [copy(task) for task in tasks]
        backend.run(tasks)
        for task, other in zip(tasks, wanted, strict=True):
            update(other.param, other.grad, other.raw, other.job, other.store, other.now())
            compare(task, other, backend.tolerance(task), (backend.name, cell))
        tasks = [later(task, random) for task in tasks]
    return bool(tasks)


def compare(task, other, tolerance, what):
    for name in ("param", *task.raw):
        got, wanted = (x.param if name == "param" else x.raw[name] for x in (task, other))
        assert got.dtype == wanted.dtype
        if tolerance == 0:
            assert same_bits(got, wanted), (*what, name)
        else:
            off = (plain(got) - plain(wanted)).abs()
            bound = tolerance * plain(wanted).abs().max() + grid(wanted)
            assert (off <= bound).all(), (*what, name, (off - bound).max().item())


def same_bits(one, other):
    if isinstance(one, Int8Weight):
        return same_bits(one.codes, other.codes) and torch.equal(one.dequantize(), other.dequantize())
    return torch.equal(one, other)


def plain(x):
    return (x.dequantize() if isinstance(x, Int8Weight) else x).double()


def grid(x):
    """One step of the numbers among which `x` is rounded: none of float32, which computes in itself."""
    if isinstance(x, Int8Weight):
        return 1.01 * (plain(x).max() - plain(x).min()) / 255
    if not x.dtype.is_floating_point:
        return torch.tensor(1.0)
    coarse = x.dtype in (torch.bfloat16, torch.float16)
    return plain(x).abs() * torch.finfo(x.dtype).eps if coarse else torch.tensor(0.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_computes_what_the_eager_update_does(name, rule, traced):
    for cell in cells([rule], SPLITS, CODECS, DTYPES):
        check(BACKENDS[name], cell)


@pytest.mark.parametrize("rule", ["adamw", "adalomo", "muon"])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_false_flag_leaves_everything_and_a_true_one_changes_nothing(name, rule, traced):
    backend = BACKENDS[name]
    some = [*cells([rule], SPLITS, CODECS, DTYPES), *cells([rule], ["svd"], CODECS, ["fp32"], still=True)]
    for cell in some if name != "cpp" else ():  # which works at once, where flags are read
        tasks = seen_by(backend, cell)
        plain, before = [copy(task) for task in tasks], [copy(task) for task in tasks]
        bad = [replace(task, grad=torch.full_like(task.grad, torch.nan), sound=NO) for task in tasks]
        dispatch.carry_out(backend, bad)
        for task, other in zip(tasks, before, strict=True):
            compare(task, other, 0, (name, cell))
        dispatch.carry_out(backend, [replace(task, sound=YES) for task in tasks])
        dispatch.carry_out(backend, plain)
        for task, other in zip(tasks, plain, strict=True):
            compare(task, other, 0, (name, cell))


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_that_are_rounded_to_nearest(name, traced):
    for rule, split in [("adamw", "whole"), ("adamw", "columns"), ("sgd", "whole"), ("adafactor", "whole")]:
        check(BACKENDS[name], Cell(rule, split, "fp32", "bf16", nearest=True))


@pytest.mark.parametrize("name", BACKENDS)
def test_small_state_that_is_companded(name, traced, monkeypatch):
    """Above, what is so small is kept exact."""
    monkeypatch.setitem(OPTIONS, "companded8", OPTIONS["int8"])
    for rule, split, weight in [("adamw", "whole", "fp32"), ("adamw", "columns", "bf16"), ("came", "whole", "fp32")]:
        cell = Cell(rule, split, "companded8", weight)
        assert check(BACKENDS[name], cell) or name not in ("cpp", "eager"), cell


@pytest.mark.parametrize("cell", COMPILED, ids=str)
def test_what_the_compiler_makes_of_it_is_within_the_bound(cell, small):
    assert check(BACKENDS["compiled"], cell) and not kernels._broken


@pytest.mark.parametrize(
    "name", [name for name, one in BACKENDS.items() if one.devices is None or "cpu" in one.devices]
)
def test_a_backend_fits_something(name, small):
    some = [*cells(["adamw", "came"], SPLITS, CODECS, DTYPES), *cells(["adamw"], ["svd"], CODECS, DTYPES, still=True)]
    assert any(seen_by(BACKENDS[name], cell) for cell in some)


@pytest.mark.parametrize("name", ["subspace", "eager"])
def test_a_subspace_outside_of_which_nothing_moves(name, small):
    for cell in cells(RULES, ["svd"], CODECS, ["fp32", "fp64"], still=True):
        assert check(BACKENDS[name], cell) or RULES[cell.full]().reads_param


def test_the_last_backend_fits_everything(small):
    last = dispatch.backends()[-1]
    assert all(seen_by(last, cell) for cell in cells(RULES, SPLITS, CODECS, DTYPES))
    assert last.devices is None and not last.compiles


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_is_called_as_its_file_and_is_complete(name):
    assert Backend in type(BACKENDS[name]).__mro__ and lacking(type(BACKENDS[name]), Backend) == []
    assert (
        BACKENDS[name].name == name
        and sys.modules[f"{folder.__name__}.{name}"].__all__[0] == type(BACKENDS[name]).__name__
    )
    assert len({backend.rank for backend in BACKENDS.values()}) == len(BACKENDS)


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if not backend.compiles])
def test_a_backend_takes_the_temporaries_that_it_states(name, small):
    """Of compiled kernels no tracker sees anything."""
    backend = BACKENDS[name]
    for cell in [Cell("adamw", "whole", "fp32", "fp32"), Cell("adamw", "whole", "int8", "bf16")]:
        tasks = seen_by(backend, cell)

        def measured(tasks=tasks):
            known = [x for task in tasks for x in (task.param, task.grad, *task.raw.values())]
            with Tracker(known) as tracker:
                backend.run(tasks)
            return tracker.peak

        assert not tasks or abs(backend.temporaries(tasks, measured) - measured()) <= 16


def test_the_order_and_what_goes_through_it(monkeypatch):
    assert [b.name for b in dispatch.able(True, "cpu")] == ["cpp", "native", "banks", "compiled", "subspace", "eager"]
    for elements, more in [(1, []), (1 << 20, ["cpp"]), (dispatch.WORTH_COMPILING, ["cpp", "compiled"])]:
        assert [b.name for b in dispatch.able(elements, "cpu") if b.compiles] == more
    assert [b.name for b in dispatch.able(False, "cuda")] == ["native", "banks", "subspace", "eager"]
    assert [b.name for b in dispatch.able(True, "meta")] == ["banks", "compiled", "subspace", "eager"]
    (task, *_), (blocks, *_) = (
        tasks_of(Cell(rule, "whole", codec, "bf16")) for rule, codec in [("adamw", "fp32"), ("adamw", "int8")]
    )
    assert dispatch.choose(task, True, "cpu")[0].name == "cpp" and dispatch.choose(task, 1, "cpu")[0].name == "banks"
    monkeypatch.setattr(builder, "available", lambda: False)
    assert dispatch.choose(task, True, "cpu")[0].name == "banks"
    for compile, size, name in [(False, 1 << 16, "eager"), (True, 1 << 16, "eager"), (True, 64, "compiled")]:
        monkeypatch.setattr(compiled, "SMALLEST", size)
        backend, seen = dispatch.choose(blocks, compile, "cpu")
        assert backend.name == name and seen.param.shape == (128, 16)


BAD = """
from hybridopt.core.contracts import Backend
from hybridopt.core.contracts.fulfilment import lacking

class Nothing(Backend):
    name = "nothing"
    rank = 1

    def fits(self, task):
        return True

__all__ = ["Nothing"]
"""
GOOD = """
from hybridopt.core.contracts import Backend
from hybridopt.core.contracts.fulfilment import lacking
from hybridopt.execution.backends.eager import Eager

class Mine(Eager):
    name = "mine"
    rank = 1
    ran = []

    def run(self, tasks):
        self.ran += tasks
        super().run(tasks)

__all__ = ["Mine"]
"""


@pytest.fixture
def dropped(tmp_path, monkeypatch):
    """Put a file among the backends."""

    def drop(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
        monkeypatch.setattr(folder.__spec__, "submodule_search_locations", folder.__path__)
        forget()

    def forget():
        registry.forget()
        for known in (dispatch.backends, dispatch.able):
            known.cache_clear()

    yield drop
    for name in ("mine", "nothing"):
        sys.modules.pop(f"{folder.__name__}.{name}", None)
    monkeypatch.undo()
    forget()


def test_a_new_file_in_the_folder_is_a_backend(dropped):
    dropped("mine", GOOD)
    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = HybridOptimizer([("w", p)], lr=0.1, policy="signsgd")
    p.grad = torch.ones(4, 4)
    optimizer.step()
    assert dispatch.backends()[0].name == "mine" and len(dispatch.backends()[0].ran) == 1
    assert torch.equal(p, torch.full((4, 4), 0.9))


def test_a_backend_that_lacks_something_is_refused_by_name(dropped):
    dropped("nothing", BAD)
    with pytest.raises(HybridOptError, match="nothing.Nothing is no Backend: it lacks run, tolerance, temporaries"):
        dispatch.backends()


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(HybridOptError, match=f"backend='metal' is not known; .*{', '.join(names('backends'))}"):
        find("backends", "metal")
