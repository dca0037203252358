"""Kernels of rules with rounds: the CPU's numbers, on numpy; how many there are; what they leave to others."""

import ast
from dataclasses import replace
from math import prod

import pytest
import torch

from hybridopt import HybridOptWarning, Treatment
from hybridopt.core.contracts import Draw
from hybridopt.execution import meta_tasks
from hybridopt.execution.backends import _triton_kernels, triton_rounds
from hybridopt.execution.backends.triton_rounds import TritonRounds, _layout_of, _parts
from hybridopt.execution.state import allocate
from hybridopt.execution.update import update
from hybridopt.execution.update_task import Task
from hybridopt.parts import (
    CAME,
    Adafactor,
    AdaLomo,
    AdamMini,
    AdamW,
    Apollo,
    ColumnNorm,
    Columns,
    Empty,
    Fp32,
    Int8,
    NormalizedSGD,
    NoUpdate,
    Sinkhorn,
    Whole,
)
from hybridopt.policy.job import Job, declare
from support.kernel_order import KernelOrder, copied, eager, later
from support.triton_language import triton_on_numpy

LANGUAGE = (
    *(
        "fma_",
        "div_",
        "sqrt_",
        "sign_",
        "abs_",
        "max_",
        "min_",
        "most_",
        "choose_",
        "halves",
        "row_hash",
        "column_hash",
    ),
    *("bits16", "stochastic_bf16", "stochastic_level", "summed", "folded"),
)
CODES = Int8(exact_below=0)
FULL = {  # rule, codec: kernels
    "adalomo": (AdaLomo(), Fp32(), 4),
    "adafactor": (Adafactor(), Fp32(), 4),
    "adafactor, no weights": (Adafactor(scale_parameter=False, relative_step=True), Fp32(), 4),
    "adafactor, momentum": (Adafactor(beta1=0.9), Fp32(), 5),
    "came": (CAME(), Fp32(), 6),
    "came, int8": (CAME(), CODES, 6),
    "adam_mini": (AdamMini(), Fp32(), 1),
    "adam_mini, int8": (AdamMini(), CODES, 1),
    "adam_mini, columns": (AdamMini(axis="columns"), Fp32(), 3),
    "adam_mini, heads": (AdamMini(blocks=((3, 8), (2, 8))), Fp32(), 3),
    "adam_mini, heads of columns": (AdamMini(axis="columns", blocks=((2, 256),)), Fp32(), 3),
    "column_norm, momentum": (ColumnNorm(momentum=0.9), Fp32(), 1),
}
FREE = {
    "sinkhorn": (Sinkhorn(), 11),
    "column_norm, rows": (ColumnNorm(axis="rows"), 1),
    "column_norm, columns": (ColumnNorm(axis="columns"), 3),
    "normalized_sgd": (NormalizedSGD(), 2),
}
RULES = FULL | {name: (rule, None, count) for name, (rule, count) in FREE.items()}
SHAPES = (40, 512), (37, 300), (1, 512)


@pytest.fixture(scope="module", autouse=True)
def on_numpy():
    with triton_on_numpy():
        yield


def task(rule, codec, shape=(40, 512), dtype=torch.bfloat16, nearest=False, meta=False) -> Task:
    from hybridopt.parts.stores.dense import Dense

    free = codec is None
    treatment = Treatment(
        AdamW() if free else rule,
        rule if free else NoUpdate(),
        Empty() if free else Whole(),
        Fp32() if free else codec,
        Dense() if nearest else None,
        free_lr_scale=0.5,
    )
    job = Job(treatment, treatment.split.at(Draw(0, "w"), shape), shape)
    random = torch.Generator().manual_seed(prod(shape))
    p, g = (torch.randn(shape, generator=random).to(dtype) * x for x in (0.02, 0.01))
    raw = {name: allocate(slot, torch.device("cpu")) for name, slot in declare(job).items()}
    if meta:
        p, g, raw = p.to("meta"), g.to("meta"), {name: x.to("meta") for name, x in raw.items()}
    return Task(p, g, raw, job, treatment.store_for(dtype), 1e-2, 0.99, 1, (0, "w"), 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_kernels_give_the_bits_of_eager_updates_that_add_in_the_same_order(name, shape):
    rule, codec, _ = RULES[name]
    one = task(rule, codec, shape) if fits(rule, codec, shape) else None
    if one is None or not TritonRounds().fits(one):
        assert shape != (40, 512), "every rule has kernels for this one"
        return
    for _ in range(2):
        other = copied(one)
        TritonRounds().run([one])
        with KernelOrder():
            eager(other)
        assert one.param.equal(other.param)
        for key, wanted in other.raw.items():
            assert one.raw[key].equal(wanted), key
        one = later(one)


def unfilled(shape):
    with torch.device("meta"):
        return meta_tasks.unfilled("w", replace(task(AdaLomo(), Fp32()).job, shape=shape), torch.bfloat16, None)


def fits(rule, codec, shape):
    heads = isinstance(rule, AdamMini) and rule.blocks
    return not heads or shape == (40, 512)


@pytest.mark.parametrize("name", ["adalomo", "came", "adam_mini", "sinkhorn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_they_stay_within_their_bound_of_the_eager_update(name, dtype):
    one = task(*RULES[name][:2], shape=(300, 257), dtype=dtype, nearest=True)
    for _ in range(2):
        other = copied(one)
        TritonRounds().run([one])
        update(other.param, other.grad, other.raw, other.job, other.store, other.now())
        for got, wanted in ((one.param, other.param), *((one.raw[k], x) for k, x in other.raw.items())):
            step = 0 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps * wanted.abs().float()
            bound = TritonRounds().tolerance(one) * wanted.abs().max() + step
            assert ((got.float() - wanted.float()).abs() <= bound).all()
        one = later(other)


@pytest.mark.parametrize("name", RULES)
def test_how_many_kernels_a_rule_is(name, monkeypatch):
    rule, codec, count = RULES[name]
    seen = []
    monkeypatch.setattr(_triton_kernels, "call", lambda launches, given: seen.append(len(launches)))
    TritonRounds().run([task(rule, codec, meta=True)])
    assert seen and set(seen) == {count}


@pytest.mark.parametrize(("name", "count"), [("adalomo", 5), ("came", 7), ("normalized_sgd", 3), ("adam_mini", 1)])
def test_many_rows_are_added_up_once(name, count, monkeypatch):
    """Every program of the next kernel would read all of them; the bits are the same."""
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(_triton_kernels, "call", lambda launches, given: seen.append(len(launches)))
        TritonRounds().run([task(*RULES[name][:2], shape=(triton_rounds.FOLDED + 1, 2), meta=True)])
    assert seen and set(seen) == {count}
    one = task(*RULES[name][:2])
    other = copied(one)
    TritonRounds().run([one])
    triton_rounds._layout.cache_clear()
    monkeypatch.setattr(triton_rounds, "FOLDED", 0)
    TritonRounds().run([other])
    triton_rounds._layout.cache_clear()
    assert one.param.equal(other.param) and all(one.raw[k].equal(x) for k, x in other.raw.items())


@pytest.mark.parametrize("name", ["adalomo", "came, int8", "adam_mini"])
def test_a_flag_that_is_false_leaves_everything(name):
    one = task(*RULES[name][:2])
    before, bad = copied(one), torch.full_like(one.grad, torch.nan)
    TritonRounds().run([replace(one, grad=bad, sound=torch.tensor(False))])
    assert one.param.equal(before.param) and all(one.raw[k].equal(x) for k, x in before.raw.items())
    TritonRounds().run([replace(one, sound=torch.tensor(True))])
    TritonRounds().run([before])
    assert one.param.equal(before.param) and all(one.raw[k].equal(x) for k, x in before.raw.items())


def test_what_is_left_to_others():
    backend = TritonRounds()
    assert backend.devices == {"cuda"} and backend.heeds_sound
    assert not backend.fits(task(AdamW(), Fp32())) and not backend.fits(task(Apollo(), Fp32()))
    assert not backend.fits(task(CAME(), CODES, (40, 300))), "a block would reach over two rows"
    assert not backend.fits(task(CAME(), replace(CODES, block=128)))
    assert not backend.fits(task(AdaLomo(), Fp32(), (2, 40, 64)))
    assert backend.fits(unfilled((2040, 1 << 23))) and not backend.fits(unfilled((4096, 1 << 23))), "2**31 sums"
    columns = Treatment(Adafactor(), NoUpdate(), Columns(0.5))
    part = columns.split.at(Draw(0, "w"), (40, 512))
    two = task(Adafactor(), Fp32())
    assert not backend.fits(replace(two, job=Job(columns, part, (40, 512)))), "two rules"
    assert not backend.fits(replace(two, lr=torch.tensor(0.1)))


def test_a_kernel_that_cannot_be_made_moves_nothing_before_others_do_it(monkeypatch):
    """The last of five fails: the state has not moved when the eager update begins."""
    monkeypatch.setattr(_triton_kernels, "_broken", set())
    one = replace(task(AdaLomo(), Fp32(), (41, 512)), age=5)  # in the first step a state that moves twice is the same
    other, layout = copied(one), _layout_of(one)
    made = dict(_triton_kernels.made(layout, "w"))
    monkeypatch.setattr(_triton_kernels, "made", lambda layout, title: made | {"update": None})
    with pytest.warns(HybridOptWarning, match="AdaLomo, a rule with rounds.*compile=False"):
        TritonRounds().run([one])
    update(other.param, other.grad, other.raw, other.job, other.store, other.now())
    assert one.param.equal(other.param) and one.raw["exp_avg_sq_row"].equal(other.raw["exp_avg_sq_row"])
    assert not TritonRounds().fits(one)


@pytest.mark.parametrize("name", RULES)
def test_every_name_of_the_kernels_is_an_argument_or_made_before(name):
    layout = _layout_of(task(*RULES[name][:2]))
    module = ast.parse(layout.text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    for one in functions:
        known = {*(x.arg for x in one.args.args), "tl", "triton", "range", *LANGUAGE, *(f.name for f in functions)}
        known |= {x.id for x in ast.walk(one) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
        used = {x.id for x in ast.walk(one) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
        assert used <= known
        assert len({x.arg for x in one.args.args}) == len(one.args.args)
        assert ("row_hash" in used) <= (one.name in ("update", "kernel")), "only weights and codes are rounded"


def test_what_they_hand_on_is_counted():
    one = task(AdaLomo(), Fp32(), (40, 512))
    vectors = 4 * 40 + 2 * 512
    assert TritonRounds().temporaries([one], lambda: 0) <= 4 * (vectors + _parts(40) * 512 + 64)
    assert TritonRounds().temporaries([task(AdamMini(), Fp32())], lambda: 0) == 0
