"""Noise is what NOISE.md says, however it is cut, and sums with it are right to the bit."""

import hashlib
import math
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.core.numerics import direction_kernels, directions
from hybridopt.core.numerics.directions import KINDS, Direction, combine_, values
from hybridopt.core.numerics.noise_tables import quantiles
from support.philox import restated

MASK = (1 << 32) - 1
KEY = 0x1234_5678_9ABC_DEF0
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NARROW = DTYPES[:3]
CPU = torch.device("cpu")


def element(z, j):
    """Element j of a direction, word for word as in NOISE.md."""
    size, bits = KINDS[z.kind], 128 // KINDS[z.kind]
    block, at = divmod(j, size)
    found = restated((block & MASK, block >> 32, z.step, z.index), (z.key & MASK, z.key >> 32))
    number = found[at * bits // 32] >> at * bits % 32 & (1 << bits) - 1
    return 1 - 2 * number if z.kind == "rademacher" else quantile(number)


def quantile(i):
    return round(1024 * NormalDist().inv_cdf((i + 0.5) / 65536)) / 1024


def summed(base, terms, start, decay):
    """`combine_` word for word as in NOISE.md; every sum is worked out exactly and rounded once."""
    float32 = torch.float32
    scales = [torch.tensor(scale, dtype=float32).item() for scale, _ in terms]
    narrow = base.dtype != torch.float64 and decay == 1 and all(z.kind == "rademacher" for _, z in terms)
    out = []
    for i, x in enumerate(base.tolist()):
        s = [scale * element(z, start + i) for scale, (_, z) in zip(scales, terms, strict=True) if scale]
        if narrow:
            t = 0.0
            for term in s:
                t = torch.tensor(float(Fraction(t) + Fraction(term)), dtype=float32).item()
            s = float(Fraction(x) + Fraction(t))
        else:
            total = x * decay
            for term in s:
                total = float(Fraction(total) + Fraction(term))
            s = total
        out.append(s)
    exact = torch.tensor(out, dtype=torch.float64)
    return exact if base.dtype == torch.float64 else exact.float().to(base.dtype)


def weights(count, dtype=torch.float32, seed=0):
    return (0.02 * torch.randn(count, generator=torch.Generator().manual_seed(seed))).to(dtype)


def combined(base, terms, **options):
    out = torch.full_like(base, math.nan)
    combine_(out, base, terms, **options)
    return out


# ---- values


@settings(max_examples=60)
@given(
    st.builds(
        Direction,
        key=st.integers(0, (1 << 63) - 1),
        step=st.integers(0, MASK),
        index=st.integers(0, MASK),
        kind=st.sampled_from(list(KINDS)),
    ),
    st.integers(0, 300) | st.integers((1 << 39) - 200, 1 << 45),
    st.integers(0, 150),
)
def test_values_are_those_of_the_specification(z, start, count):
    assert values(z, start, count, CPU).tolist() == [element(z, j) for j in range(start, start + count)]


@pytest.mark.parametrize("kind", KINDS)
@given(cuts=st.lists(st.integers(0, 700), max_size=4))
def test_pieces_are_those_of_the_whole(kind, cuts):
    z = Direction(KEY, 3, 1, kind)
    ends = [0, *sorted(cuts), 700]
    pieces = [values(z, a, b - a, CPU) for a, b in zip(ends, ends[1:], strict=False)]
    assert torch.cat(pieces).equal(values(z, 0, 700, CPU))


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_chunks_does_not_matter(kind, monkeypatch):
    z, base = Direction(KEY, 3, 1, kind), weights(3000)
    whole = values(z, 5, 3000, CPU), combined(base, [(0.1, z)], start=5)
    monkeypatch.setattr(directions, "BLOCKS", {"cpu": 1})
    assert values(z, 5, 3000, CPU).equal(whole[0])
    assert combined(base, [(0.1, z)], start=5).equal(whole[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_does_not_matter(kind):
    z, base = Direction(KEY, 3, 1, kind), weights(200_000)
    one = values(z, 0, 200_000, CPU), combined(base, [(0.1, z)])
    torch.set_num_threads(2)
    try:
        assert values(z, 0, 200_000, CPU).equal(one[0]) and combined(base, [(0.1, z)]).equal(one[1])
    finally:
        torch.set_num_threads(1)


def test_the_table_is_that_of_the_specification():
    table = quantiles(CPU)
    assert table.dtype == torch.float32 and table.tolist() == [quantile(i) for i in range(65536)]
    assert table.equal(-table.flip(0))
    digest = hashlib.sha256(table.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest == "3c9ed1a2bb43f3da09e8f79babb7feff839f12e7a581dd5772ba88c8b0751c24"


def test_no_quantile_lies_where_rounding_is_in_doubt():
    exact = [1024 * NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(65536)]
    assert min(abs(abs(x - math.floor(x)) - 0.5) for x in exact) / 1024 > 1e-9


# ---- distribution


def draws(count=1 << 18):
    """Directions that differ in one number each."""
    for kind in KINDS:
        for other in (Direction(KEY, 0, 0, kind), Direction(KEY, 1, 0, kind), Direction(KEY, 0, 1, kind)):
            yield values(other, 0, count, CPU).double()
        yield values(Direction(KEY + 1, 0, 0, kind), 0, count, CPU).double()
        yield values(Direction(KEY + (1 << 32), 0, 0, kind), 0, count, CPU).double()


def test_moments_are_those_of_a_fair_coin_and_of_a_normal():
    for i, z in enumerate(draws()):
        error = len(z) ** -0.5  # of a mean
        assert abs(z.mean()) < 4 * error
        assert abs((z**2).mean() - 1) < 4 * 2**0.5 * error
        assert abs((z**4).mean() - (1 if i < 5 else 3)) < 4 * 96**0.5 * error


def test_directions_and_positions_are_independent():
    all_ = list(draws())
    limit = 4.5 * len(all_[0]) ** -0.5
    for i, one in enumerate(all_):
        for other in all_[i % 5 + 1 + i - i % 5 : i - i % 5 + 5]:
            assert abs((one * other).mean()) < limit
        for lag in (1, 2, 3, 4, 8, 16, 32, 64, 96, 128, 256, 1024):
            assert abs((one[lag:] * one[:-lag]).mean()) < limit


def test_every_number_of_a_direction_matters():
    same = [Direction(KEY, 1, 2), Direction(KEY, 2, 1), Direction(KEY, 1, 1), Direction(KEY, 2, 2)]
    same += [Direction(KEY ^ 1, 1, 2), Direction(KEY ^ 1 << 40, 1, 2), Direction(KEY, 1, 2, "gaussian")]
    assert len({tuple(values(z, 0, 256, CPU).tolist()) for z in same}) == len(same)


# ---- sums

SUMS = {
    "one": [(1e-3, Direction(KEY, 7))],
    "several": [(1e-3, Direction(KEY, 7)), (-0.3, Direction(KEY, 7, 1)), (2.5, Direction(KEY, 8))],
    "zero": [(1e-60, Direction(KEY, 6)), (1e-3, Direction(KEY, 7)), (0.0, Direction(KEY, 9, 0, "gaussian"))],
    "gaussian": [(1e-3, Direction(KEY, 7, 0, "gaussian")), (0.2, Direction(KEY, 7, 1, "gaussian"))],
    "mixed": [(1e-3, Direction(KEY, 7, 0, "gaussian")), (0.2, Direction(KEY, 7, 1))],
    "none": [],
}


@pytest.mark.parametrize("decay", [1.0, 0.75])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("terms", SUMS.values(), ids=SUMS)
def test_sums_are_those_of_the_specification(terms, dtype, decay):
    base = weights(300, dtype)
    told = [(scale, z) for scale, z in terms if scale]
    expected = summed(base, told, 77, decay)
    assert combined(base, terms, start=77, decay=decay).equal(expected)
    combine_(base, base, terms, start=77, decay=decay)
    assert base.equal(expected)


@pytest.mark.parametrize("decay", [1 - 1e-7, 1 - 1e-8, 0.1, -3.7])
def test_decay_counts_29_bits(decay):
    base = weights(300)
    mantissa, exponent = math.frexp(decay)
    rounded = round(mantissa * 2**29) * 2.0 ** (exponent - 29)
    assert combined(base, [], decay=decay).equal((base.double() * rounded).float())
    assert abs(rounded - decay) <= 2**-29 * abs(decay)


def test_decay_that_is_nearly_1_is_1():
    base = weights(300)
    assert combined(base, SUMS["several"], decay=1 - 1e-11).equal(combined(base, SUMS["several"]))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_plus_and_minus_are_the_same_direction(dtype):
    z = values(Direction(KEY, 7), 0, 300, CPU).double()
    for sign in (1, -1):
        sum_ = combined(torch.zeros(300, dtype=dtype), [(sign * 0.5, Direction(KEY, 7))])
        assert sum_.double().equal(sign * 0.5 * z)


def test_shapes_are_read_in_order():
    flat, shaped = weights(300), weights(300).view(5, 6, 10)
    assert combined(shaped, SUMS["several"]).view(-1).equal(combined(flat, SUMS["several"]))
    assert combined(torch.tensor(0.5), SUMS["one"]).shape == ()
    assert combined(torch.empty(0, 3), SUMS["mixed"]).shape == (0, 3)


def test_parameters_are_written_without_a_graph_and_marked_as_changed():
    p = torch.nn.Parameter(weights(300))
    version = p._version
    combine_(p, p, SUMS["one"])
    assert p.grad_fn is None and p._version > version and p.detach().equal(combined(weights(300), SUMS["one"]))


def test_bits_never_change():
    """Files of (step, scale) pairs are read by later versions."""
    digest = hashlib.sha256()
    for dtype in DTYPES:
        base = (torch.arange(1000) % 37 - 18).to(dtype) / 64
        for terms in SUMS.values():
            for decay in (1.0, 0.999):
                found = combined(base, terms, start=1000, decay=decay)
                digest.update(found.view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == "de6e0afbd8189bb7ebfb181268a04353219caedb28d4a88a8d93fb78ba7b2e76"


def test_global_generators_are_neither_read_nor_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = combined(weights(300), SUMS["mixed"])
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert combined(weights(300), SUMS["mixed"]).equal(one)


# ---- compiled


@pytest.mark.parametrize("count", [100, 128 * 40, 128 * 700 + 77])
@pytest.mark.parametrize("decay", [1.0, 0.75])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("terms", [SUMS["several"], SUMS["mixed"]], ids=["several", "mixed"])
def test_compiled_sums_are_the_same_to_the_bit(terms, dtype, decay, count, monkeypatch):
    """Of any size and start, in one chunk or many, in place or not, one kernel serves all."""
    base = weights(count, dtype)
    expected = combined(base, terms, start=1100, decay=decay)
    assert combined(base, terms, start=1100, decay=decay, compile=True).equal(expected)
    monkeypatch.setattr(direction_kernels, "CHUNKS", {"cpu": dict.fromkeys(KINDS, 3000)})
    version = base._version
    combine_(base, base, terms, start=1100, decay=decay, compile=True)
    assert base.equal(expected) and base._version > version and not direction_kernels._broken


def test_numbers_and_sizes_do_not_compile_anew(monkeypatch):
    monkeypatch.setattr(direction_kernels, "_kernels", {})  # none that another test has made
    monkeypatch.setattr(direction_kernels, "CHUNKS", {"cpu": dict.fromkeys(KINDS, 128 * 32)})
    base = weights(128 * 64)
    combined(base, SUMS["one"], compile=True)
    before = len(direction_kernels._kernels), torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for count, step in ((128 * 2, 1), (128 * 64, 1 << 31), (128 * 33, 5)):
        terms = [(step / 7, Direction(step, step))]
        assert combined(base[:count], terms, compile=True).equal(combined(base[:count], terms))
    assert before == (len(direction_kernels._kernels), torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_where_compiling_fails_it_warns_once_and_goes_on(monkeypatch):
    def fails(*_):
        raise OSError("no compiler")

    monkeypatch.setattr(direction_kernels, "_kernels", {})
    monkeypatch.setattr(direction_kernels, "_broken", set())
    monkeypatch.setattr(direction_kernels, "_compile", fails)
    base, terms = weights(128 * 10), SUMS["several"]
    with pytest.warns(HybridOptWarning, match="no compiler"):
        one = combined(base, terms, compile=True)
    assert one.equal(combined(base, terms, compile=True)) and one.equal(combined(base, terms))


# ---- bad input


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"key": -1}, "key=-1"),
        ({"key": 1 << 63}, r"2\*\*63"),
        ({"key": 1.0}, "key=1.0"),
        ({"step": 1 << 32}, r"step=4294967296.*2\*\*32"),
        ({"step": -1}, "step=-1"),
        ({"step": True}, "step=True"),
        ({"index": 1 << 32}, "index=4294967296"),
        ({"kind": "gausian"}, "did you mean 'gaussian'"),
    ],
)
def test_directions_out_of_range_are_refused(said, match):
    with pytest.raises(HybridOptError, match=match):
        Direction(**{"key": 1, "step": 1} | said)


X = torch.ones(8)
MEMORY = torch.ones(12)
Z = Direction(KEY, 1)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"base": torch.ones(2, 4)}, "shape"),
        ({"base": X.double()}, "dtype"),
        ({"base": torch.ones(8, device="meta")}, "device"),
        ({"out": X.int(), "base": X.int()}, "out.dtype=torch.int32"),
        ({"out": torch.ones(16)[::2]}, "contiguous"),
        ({"base": torch.ones(16)[::2]}, "contiguous"),
        ({"out": MEMORY[:8], "base": MEMORY[4:]}, "share"),
        ({"start": -1}, "start=-1"),
        ({"terms": [(math.nan, Z)]}, "scale=nan"),
        ({"terms": [(math.inf, Z)]}, "scale=inf"),
        ({"terms": [(1e39, Z)]}, "scale=inf"),
        ({"terms": [("1", Z)]}, "scale='1'"),
        ({"terms": [(1.0, 3)]}, "3 is no direction"),
        ({"decay": math.nan}, "decay=nan"),
    ],
)
def test_bad_sums_are_refused_before_anything_is_changed(told, match):
    told = {"out": torch.full((8,), 5.0), "base": X, "terms": [(1.0, Z)]} | told
    before = told["out"].clone()
    with pytest.raises(HybridOptError, match=match):
        combine_(**told)
    assert told["out"].equal(before)


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, -1), (0, 1.5)])
def test_bad_ranges_are_refused(start, count):
    with pytest.raises(HybridOptError, match="values"):
        values(Z, start, count, CPU)


def test_prepared_bits_change_nothing_and_are_those_of_each():
    wanted = [(Direction(7, 3), 1), (Direction(2**62 + 5, 3, 2), 129), (Direction(9, 3, kind="gaussian"), 77)]
    wanted += [(Direction(11, 5), 1 << 17), (Direction(12, 5), (1 << 17) + 1)]
    one_by_one = [values(z, 0, n, "cpu") for z, n in wanted]
    cpu = torch.device("cpu")
    try:
        directions.prepare(wanted, cpu)
        assert [z for z, _ in wanted if (z, cpu) in directions._ready] == [z for z, _ in wanted[:4]]
        assert all(values(z, 0, n, "cpu").equal(x) for (z, n), x in zip(wanted, one_by_one, strict=True))
        assert values(wanted[1][0], 100, 29, "cpu").equal(one_by_one[1][100:])
        assert values(wanted[1][0], 200, 300, "cpu").equal(values(wanted[1][0], 0, 500, "cpu")[200:])  # beyond it
        directions.prepare([], cpu)
        assert not [z for z, device in directions._ready if device == cpu]
    finally:
        directions._ready.clear()


def test_no_more_is_prepared_than_fits():
    cpu = torch.device("cpu")
    try:
        directions.prepare([(Direction(i, 0, kind="gaussian"), 1 << 17) for i in range(100)], cpu)
        assert sum(len(bits) for bits in directions._ready.values()) == directions.READY
    finally:
        directions._ready.clear()
