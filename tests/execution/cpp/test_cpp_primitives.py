"""The skeleton's primitives, in each of their three ways, give the bits of their twins in Python."""

import ctypes
from array import array

import pytest
import torch

from hybridopt.core.contracts import Slot
from hybridopt.core.numerics.rounding import Seed, random_bits, stochastic_bf16, tables
from hybridopt.core.numerics.split_floats import joined, parted
from hybridopt.execution.cpp import builder, call
from hybridopt.parts.codecs.companded8 import Companded8
from hybridopt.parts.codecs.int8 import Int8

WAYS = ["", "#define HYBRIDOPT_AVX2\n", "#define HYBRIDOPT_PORTABLE\n"]
TEXT = """
#include "chunks.h"
#include "columns.h"
#include "int8.h"
// as a printed kernel does it: what a loop writes becomes codes beside the loop over the next block
template <class Levels, class Code>
static void beside(const float* x, Code* codes, float* most, int n, int block, u64 key, Columns columns) {
    alignas(64) float waiting[512];
    Blocks<Levels, Code> blocks(waiting);
    for (int at = 0; at < n; at += block) {
        const int some = n - at < block ? n - at : block;
        const auto now = blocks.begin(codes + at, most + at / block, some, of_row(columns, at / block, 0, some, key));
        const auto first = [&](int i, auto lanes, auto next) ALWAYS { return next(load(x + at + i, lanes)); };
        in_blocks(some, first, [&](int i, auto lanes, F made) ALWAYS { now.out(i, made, lanes); }, blocks);
        blocks.wait();
    }
    blocks.end();
}
// as rules with rounds do it: by pieces that end within blocks
template <class Levels, class Code>
static void in_pieces(Code* codes, float* most, const float* x, int n, int block, u64 key, Columns columns) {
    alignas(64) float waiting[512];
    Written<Levels, Code> written{codes, most, waiting, block, 0, key, columns};
    for (int at = 0, some = 1; at < n; at += some, some = 2 * some + 5)
        written.add(x + at, at, some < n - at ? some : n - at);
    written.close();
}
// tasks: which primitive; sizes: n, width, first element
extern "C" void hybridopt_run(const Given* given) {
    void* const* at = given->at;
    const int n = (int)given->sizes[0];
    const i64 width = given->sizes[1], first = given->sizes[2];
    float* x = (float*)at[0];
    const u64 key = given->keys[0];
    const Columns some = given->columns;
    switch (given->tasks) {
        case 0: return bf16_in(x, (u16*)at[1], n);
        case 1: return bf16_nearest((u16*)at[1], x, n);
        case 2: return bf16_random_rows<4096>((u16*)at[1], x, first, n, width, key, given->columns);
        case 3: return random_bits((u32*)at[1], first, n, width, key, given->columns);
        case 4: return bf16_joined(x, (u16*)at[1], (i8*)at[2], n);
        case 5: return bf16_parted((u16*)at[1], (i8*)at[2], x, n);
        case 6: return int8_blocks_in<Linear>(x, (i8*)at[1], (float*)at[2], first, n, (int)width);
        case 7: return int8_blocks_in<Linear>(x, (u8*)at[1], (float*)at[2], first, n, (int)width);
        case 8: return in_pieces<Linear>((i8*)at[1], (float*)at[2], x, n, (int)width, key, some);
        case 9: return in_pieces<Linear>((u8*)at[1], (float*)at[2], x, n, (int)width, key, some);
        case 12: return int8_blocks_in<Companded>(x, (i8*)at[1], (float*)at[2], first, n, (int)width);
        case 13: return int8_blocks_in<Companded>(x, (u8*)at[1], (float*)at[2], first, n, (int)width);
        case 14: return in_pieces<Companded>((i8*)at[1], (float*)at[2], x, n, (int)width, key, some);
        case 15: return in_pieces<Companded>((u8*)at[1], (float*)at[2], x, n, (int)width, key, some);
        case 18: return beside<Linear>(x, (i8*)at[1], (float*)at[2], n, (int)width, key, some);
        case 19: return beside<Linear>(x, (u8*)at[1], (float*)at[2], n, (int)width, key, some);
        case 24: return beside<Companded>(x, (i8*)at[1], (float*)at[2], n, (int)width, key, some);
        case 25: return beside<Companded>(x, (u8*)at[1], (float*)at[2], n, (int)width, key, some);
        case 10: pack((float*)at[1], Floats{x}, (float*)at[4], Floats{(float*)at[3]}, (u16*)at[2], n); return;
        case 16:
            return in_lanes(n, [&](int i, auto some) { store((float*)at[1] + i, sign_(load(x + i, some)), some); });
        case 17: {
            const F by = 0.7f, inverse = div_(F(1.f), by);
            return in_lanes(n, [&](int i, auto some) {
                store((float*)at[1] + i, over_(load(x + i, some), by, inverse), some);
            });
        }
        case 11:
            int next = 0;
            const auto spread = with_chosen(Floats{x}, (float*)at[1], (u16*)at[2], &next);
            return in_order(n, [&](int i, auto some) { spread.out(i, spread.in(i, some), some); });
    }
}
"""
KEY = 0x5DEECE66D1234567
HALVES = """
#include "chunks.h"
#include "bf16.h"
// tasks: from floats or to them; sizes: n
extern "C" void hybridopt_run(const Given* given) {
    void* const* at = given->at;
    const int n = (int)given->sizes[0];
    if (given->tasks) return fp16_in((float*)at[0], (u16*)at[1], n);
    fp16_nearest((u16*)at[1], (float*)at[0], n);
}
"""


@pytest.fixture(scope="module")
def made():
    texts = [way + TEXT for way in WAYS]
    builder.build(texts)
    return {way: builder.function(text) for way, text in zip(WAYS, texts, strict=True)}


@pytest.fixture(params=range(3), ids=["native", "avx2", "portable"])
def run(request, made):
    def run(which, tensors, n, width=1, first=0):
        at, sizes = array("Q", [x.data_ptr() for x in tensors]), array("q", [n, width, first])
        keys, columns = array("Q", [KEY]), tables(4096, torch.device("cpu"))[1]
        addresses = (x.buffer_info()[0] for x in (at, sizes, keys))
        at_, sizes_, keys_ = addresses
        known = len(columns) - 16
        given = call.CallArguments(which, at_, len(tensors), sizes_, keys_, 1, None, columns.data_ptr(), known, 1)
        made[WAYS[request.param]](ctypes.byref(given))

    return run


def numbers(n):
    """Of all sizes, the first ones special."""
    special = [
        0.0,
        -0.0,
        float("inf"),
        -float("inf"),
        float("nan"),
        1e-38,
        1e-41,
        -3e-31,
        1e-30,
        2e30,
        1e30,
        1.0,
        65504.0,
    ]
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)) * 10 ** torch.linspace(-32, 31, n)
    x[: len(special)] = torch.tensor(special)[:n]
    return x


def bits(x):
    """Its bits, where every NaN is the same one."""
    kind = {2: torch.int16, 4: torch.int32}[x.element_size()]
    return torch.where(x.isnan(), 0, x.view(kind))


@pytest.mark.parametrize("n", [1, 7, 16, 37, 1000])
def test_bfloat16_in_and_to_nearest(run, n):
    x, out, back = numbers(n), torch.zeros(n + 1, dtype=torch.bfloat16), torch.zeros(n + 1)
    run(1, (x, out), n)
    assert bits(out[:n]).equal(bits(x.to(torch.bfloat16))) and out[n] == 0
    run(0, (back, out), n)
    assert bits(back[:n]).equal(bits(out[:n].float())) and back[n] == 0


@pytest.mark.parametrize("alike", [1e-41, 1e-38, -0.0, 1.0, 1.00390625, 3.4e38, float("inf"), float("nan")])
def test_lanes_that_are_all_alike_go_to_the_nearest_bfloat16(run, alike):
    """One lane that is special has them all looked at."""
    x, out = torch.full((64,), alike), torch.zeros(64, dtype=torch.bfloat16)
    run(1, (x, out), 64)
    assert bits(out).equal(bits(x.to(torch.bfloat16))) and out.signbit().equal(x.to(torch.bfloat16).signbit())


@pytest.mark.parametrize("n", [5, 37, 1000])
def test_a_quotient_by_one_number_is_rounded_to_nearest(run, n):
    x, out = numbers(n), torch.zeros(n + 1)
    run(17, (x, out), n)
    wanted, exact = x / torch.full_like(x, 0.7), (x.abs() > 1e-29) | (x == 0) | x.isnan()
    assert exact[:5].all() and torch.allclose(out[:n][exact], wanted[exact], 0, 0, equal_nan=True) and out[n] == 0


SIZES = [(1, 1), (40, 3), (5, 63), (7, 64), (3, 100), (1, 1000), (2, 5000)]
SIZES += [(21, 16), (60, 16), (9, 32), (30, 48)]  # whole rows of whole lanes


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_random_bits_and_rounding_by_them(run, rows, width):
    x = numbers(rows * width).view(rows, width)
    first, n = (x.numel() // 3, x.numel() - x.numel() // 3)
    n = min(n, 4096)
    wanted = random_bits(x, KEY).flatten()[first : first + n]
    found = torch.zeros(n, dtype=torch.int32)
    run(3, (x, found), n, width, first)
    assert found.equal(wanted)
    out = torch.zeros(n, dtype=torch.bfloat16)
    run(2, (x.flatten()[first:].contiguous(), out), n, width, first)
    assert bits(out).equal(bits(stochastic_bf16(x, KEY).flatten()[first : first + n]))


@pytest.mark.parametrize("n", [1, 16, 37, 1000])
def test_weights_of_24_bits(run, n):
    x, high, low, back = (
        numbers(n),
        torch.zeros(n, dtype=torch.bfloat16),
        torch.zeros(n, dtype=torch.int8),
        torch.zeros(n),
    )
    run(5, (x, high, low), n)
    wanted = parted(x)
    assert bits(high).equal(bits(wanted[0])) and low.equal(wanted[1])
    run(4, (back, high, low), n)
    assert bits(back).equal(bits(joined(*wanted)))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("eight_bits", [Int8, Companded8])
@pytest.mark.parametrize(("n", "block"), [(5, 16), (64, 16), (100, 32), (1000, 256), (4096, 128)])
def test_state_of_eight_bits(run, eight_bits, signed, n, block):
    codec, slot, more = (
        eight_bits(block=block, exact_below=0),
        Slot((n,), signed=signed),
        6 * (eight_bits is Companded8),
    )
    x = torch.randn(n, generator=torch.Generator().manual_seed(1)) * 10 ** torch.linspace(-8, 1, n)
    x[: block // 2] = 0
    x = x if signed else x.square()
    wanted, found = ({k: torch.zeros(s.shape, dtype=s.dtype) for k, s in codec.raw(slot).items()} for _ in range(2))
    codec.store(wanted, x, slot, Seed(KEY))
    kept = x if signed else x.sqrt()  # the kernels' callers have it at hand
    run((8 if signed else 9) + more, (kept, found[""], found["_absmax"]), n, block)
    assert found[""].equal(wanted[""]) and found["_absmax"].equal(wanted["_absmax"])
    for first in (0, 1, n // 2, n - 1):
        out = torch.zeros(n - first)
        run((6 if signed else 7) + more, (out, found[""], found["_absmax"]), n - first, block, first)
        assert out.equal(codec.load(wanted, slot)[first:])


ODD = [0.0, -0.0, 1e-41, 3e-37, 1e30, float("inf"), -float("inf"), float("nan"), -float("nan")]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("eight_bits", [Int8, Companded8])
def test_blocks_of_special_numbers_are_those_of_the_codec(run, eight_bits, signed):
    block, small = 16, torch.linspace(-1, 1, 16)
    codec, more = eight_bits(block=block, exact_below=0), 6 * (eight_bits is Companded8)
    blocks = [small * size for size in (3e-37, 1e-38, 1e-41, 1e-36, 2e-36)] + [torch.full((block,), x) for x in ODD]
    blocks += [torch.where(torch.arange(block) == 3, x, small) for x in ODD]
    x = torch.cat(blocks) if signed else torch.cat(blocks).square()
    slot = Slot((len(x),), signed=signed)
    wanted, found = ({k: torch.zeros(s.shape, dtype=s.dtype) for k, s in codec.raw(slot).items()} for _ in range(2))
    codec.store(wanted, x, slot, Seed(KEY))
    run((8 if signed else 9) + more, (x if signed else x.sqrt(), found[""], found["_absmax"]), len(x), block)
    assert found[""].equal(wanted[""]) and bits(found["_absmax"]).equal(bits(wanted["_absmax"]))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("eight_bits", [Int8, Companded8])
@pytest.mark.parametrize(("n", "block"), [(512, 512), (5, 16), (300, 16), (5000, 64), (5000, 128), (4100, 100)])
def test_blocks_that_become_codes_beside_the_next_one(run, eight_bits, signed, n, block):
    """Those of special numbers, alone and among others, at the beginning and the end."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(2)) * 10 ** torch.linspace(-3, 3, n)
    x = x if signed else x.abs()
    for i, odd in enumerate(ODD):
        some = x[3 * i * block :][:block]
        some[:: max(1, block // (1, 4, block)[i % 3])] = odd
    x[-block // 2 :][:3] = 0
    more = 6 * (eight_bits is Companded8) + (not signed)
    code = torch.int8 if signed else torch.uint8
    found = [(torch.full((n + 1,), 7, dtype=code), torch.full((-(-n // block) + 1,), 7.0)) for _ in range(2)]
    for which, (codes, most) in zip((8, 18), found, strict=True):
        run(which + more, (x, codes, most), n, block)
    (wanted, sizes), (codes, most) = found
    assert codes.equal(wanted) and bits(most).equal(bits(sizes)) and codes[n] == most[-1] == 7


def test_the_largest_size_is_never_below_the_lowest_level(run):
    """Products may be rounded to more than 127 units; then a random 0 leads to -128."""
    most = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1
    above = most[most * (1 / most * 127) > 127]
    x, block = -above[:1].expand(1 << 19).contiguous(), 512
    codes = torch.zeros(len(x), dtype=torch.int8)
    run(18, (x, codes, torch.zeros(len(x) // block)), len(x), block)
    assert codes.unique().tolist() == [-127]


@pytest.mark.parametrize("n", [5, 37, 1000])
def test_a_sign_is_zero_of_zeros_and_of_no_number(run, n):
    x, out = numbers(n), torch.ones(n + 1)
    x[-1] = -float("nan")
    run(16, (x, out), n)
    assert out[:n].equal(x.sign()) and not out[:n].signbit()[x == 0].any() and out[n] == 1


@pytest.mark.parametrize("n", [1, 8, 16, 37, 200])
def test_columns_are_packed_and_spread(run, n):
    chosen = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.4
    lanes = torch.zeros(-(-n // 16) * 16, dtype=torch.int32)
    lanes[:n] = chosen
    mask = (lanes.view(-1, 16) << torch.arange(16)).sum(1).to(torch.int16)
    x, y, count = torch.randn(n), torch.randn(n), int(chosen.sum())
    packed, others = torch.zeros(n + 16), torch.zeros(n + 16)
    run(10, (x, packed, mask, y, others), n)
    assert packed[:count].equal(x[chosen]) and others[:count].equal(y[chosen])
    own = torch.randn(n + 16)
    wanted = x.clone()
    wanted[chosen] = own[:count]
    run(11, (x, own, mask), n)
    assert x.equal(wanted)


@pytest.fixture(scope="module")
def halves():
    """Functions from floats to float16 (0) and back (1), one for each kind of registers."""
    texts = {way: way + HALVES for way in (*WAYS, f"{WAYS[1]}#undef __F16C__\n")}
    builder.build(texts.values())
    return {way: builder.function(text) for way, text in texts.items()}


def test_float16_is_converted_as_by_torch(halves):
    """All of them, what lies between two neighbours, and beside it; ends of any length."""
    half = torch.arange(1 << 16).to(torch.uint16).view(torch.float16)
    exact = half.float()
    between = (exact[:-1].double() + exact[1:].double()).div(2).float().nan_to_num(65520.0, 65520.0, -65520.0)
    up, down = torch.tensor(float("inf")), torch.tensor(-float("inf"))
    floats = torch.cat([exact, between, between.nextafter(up), between.nextafter(down), numbers(999)])
    pieces = [(floats, floats.half()), *((floats[-n:], floats[-n:].half()) for n in (1, 3, 8, 17, 30))]
    for way, run in halves.items():
        for x, wanted in pieces:
            n, out = len(x), torch.zeros(len(x) + 1, dtype=torch.float16)
            back, x = torch.zeros(n + 1), x.clone()
            for to, floats in ((0, x), (1, back)):
                at, sizes = array("Q", [floats.data_ptr(), out.data_ptr()]), array("q", [n, 1, 0])
                where, size = at.buffer_info()[0], sizes.buffer_info()[0]
                given = call.CallArguments(to, where, 2, size, None, 0, None, None, 0, 1)
                run(ctypes.byref(given))
            assert bits(out[:n]).equal(bits(wanted)) and out[n] == 0, way
            assert bits(back[:n]).equal(bits(wanted.float())) and back[n] == 0, way
