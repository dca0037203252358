"""Every codec and every store: bytes, error bounds, rounding without bias, state that does not freeze."""

import math

import pytest
import torch

from hybridopt.core.contracts import Slot
from hybridopt.core.numerics import rounding
from hybridopt.core.numerics.rounding import Seed, random_bits, stochastic_bf16, stochastic_round
from support.parts import CODECS, STORES

ERROR = {"fp32": 0.0, "bf16": 2**-7, "int8": 1 / 127, "companded8": 2 / 127}  # of the largest value of a block
SHAPES = [(3,), (64, 80), (5000,), (4096,), (2, 50, 51)]


def numbers(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(codec, slot):
    return {suffix: torch.zeros(raw.shape, dtype=raw.dtype) for suffix, raw in codec.raw(slot).items()}


def kept(codec, value, slot, key=1):
    """The value after it has been stored and loaded."""
    raw = made(codec, slot)
    codec.store(raw, value.clone(), slot, key)
    return codec.load(raw, slot)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CODECS)
def test_round_trip(name, shape, signed):
    codec, slot = CODECS[name](), Slot(shape, signed=signed)
    x = numbers(shape) if signed else numbers(shape).square()
    raw = made(codec, slot)
    shapes = {k: (v.shape, v.dtype) for k, v in raw.items()}
    codec.store(raw, x.clone(), slot, 1)
    assert {k: (v.shape, v.dtype) for k, v in raw.items()} == shapes
    out = codec.load(raw, slot)
    assert out.shape == x.shape and out.dtype == torch.float32
    width = x if signed else x.sqrt()
    error = (out if signed else out.sqrt()) - width
    assert error.abs().max() <= ERROR[name] * width.abs().max() * 1.001
    assert kept(codec, torch.zeros(shape), slot).eq(0).all()
    if not signed:
        assert (out >= 0).all()


@pytest.mark.parametrize(
    ("name", "bytes_each"), [("fp32", 4), ("bf16", 2), ("int8", 1 + 4 / 256), ("companded8", 1 + 4 / 128)]
)
def test_bytes(name, bytes_each):
    raw = CODECS[name]().raw(Slot((128, 256)))
    assert sum(math.prod(r.shape) * r.dtype.itemsize for r in raw.values()) == bytes_each * 128 * 256


def test_every_codec_has_a_known_error():
    assert set(ERROR) == set(CODECS)


@pytest.mark.parametrize("name", CODECS)
def test_only_eight_bits_keep_small_slots_exact(name):
    x = numbers((4095,))
    exact = kept(CODECS[name](), x, Slot((4095,))).equal(x)
    assert exact == (name in ("fp32", "int8", "companded8"))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", CODECS)
def test_rounding_keeps_the_mean(name, signed):
    codec, slot = CODECS[name](), Slot((4096,), signed=signed)
    x = numbers((4096,)) if signed else numbers((4096,)).abs() + 0.5
    root = x if signed else x.square()
    outs = torch.stack([kept(codec, root, slot, key * 7919 + 3) for key in range(256)])
    outs = (outs if signed else outs.sqrt()).double()
    step = ERROR[name] * x.abs().max()
    assert (outs.mean(0) - x).abs().max() <= step * 0.25 + 1e-6
    assert abs((outs.mean(0) - x).mean()) <= step * 0.004 + 1e-6


@pytest.mark.parametrize("name", CODECS)
def test_a_second_moment_does_not_freeze(name):
    codec, slot = CODECS[name](), Slot((4096,), signed=False)
    start = numbers((4096,)).square() + 0.5
    raw = made(codec, slot)
    codec.store(raw, start.clone(), slot, 0)
    for key in range(1, 301):
        codec.store(raw, codec.load(raw, slot) * 0.999, slot, key)
    left = codec.load(raw, slot).mean() / start.mean()
    assert abs(left - 0.999**300) < 0.02


@pytest.mark.parametrize("name", CODECS)
def test_a_second_moment_above_zero_stays_above_zero(name):
    codec, slot = CODECS[name](), Slot((8192,), signed=False)
    for scale in (1.0, 1e-12, 1e-24):
        x = torch.logspace(-6, 0, 8192).view(64, 128).T.flatten() ** 2 * scale  # every block holds all sizes
        x[::7] = 0
        out = kept(codec, x, slot)
        assert out[x > 0].gt(0).all() and out[x == 0].eq(0).all()


@pytest.mark.parametrize("name", CODECS)
def test_the_key_decides_the_rounding(name):
    codec, slot, x = CODECS[name](), Slot((5000,)), numbers((5000,))
    assert kept(codec, x, slot, 3).equal(kept(codec, x, slot, 3))
    assert kept(codec, x, slot, 3).equal(kept(codec, x, slot, 4)) == (not codec.random)


def test_bf16_rounding_up_and_down_as_often_as_it_should():
    x = torch.full((1 << 16,), 1 + 2**-7 * 0.3)
    out = stochastic_bf16(x, 5).float()
    assert set(out.unique().tolist()) == {1.0, 1 + 2**-7}
    assert abs(out.mean() - x[0]) < 2**-7 * 0.01
    odd = stochastic_bf16(torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0]), 1)
    assert repr(odd[:3].tolist()) == "[nan, inf, -inf]" and not odd[3:].any()
    assert stochastic_round(torch.tensor([-1.0, 0.0, 2.0, 127.0]), 9).tolist() == [-1, 0, 2, 127]


def test_random_bits_are_even_and_independent():
    one, other = (random_bits(torch.empty(1 << 16), key).double() for key in (1, 2))
    assert one.min() >= 0 and one.max() < 65536
    assert abs(one.mean() / 65535 - 0.5) < 0.01
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack([one[1:], one[:-1]]))[0, 1]) < 0.02
    high = random_bits(torch.empty(1 << 16), 1 + (1 << 40)).double()
    assert abs(torch.corrcoef(torch.stack([one, high]))[0, 1]) < 0.02
    table = random_bits(torch.empty(256, 256), 3).double()
    assert abs(torch.corrcoef(table)[0, 1:]).max() < 0.3 and abs(torch.corrcoef(table.mT)[0, 1:]).max() < 0.3


def test_random_bits_of_a_slice_and_of_a_stack_are_those_of_the_whole_and_of_its_members():
    key = 1 << 62 | 12345678901
    whole, cut = random_bits(torch.empty(100, 7), key), random_bits(torch.empty(60, 7), Seed(key, 40))
    assert whole[40:].equal(cut)
    keys = torch.tensor([key, 5, 1 << 31])
    for shape in [(7,), (3, 7), (2, 3, 7)]:
        stack = random_bits(torch.empty(3, *shape), keys)
        members = [random_bits(torch.empty(shape), k) for k in keys.tolist()]
        assert stack.equal(torch.stack(members)) and stack.equal(
            torch.stack([random_bits(torch.empty(shape), k) for k in keys])
        )
    long = random_bits(torch.empty(100_000), key)
    assert long[:100].equal(random_bits(torch.empty(100), key)), "longer tables begin with the same numbers"


def test_both_ways_to_round_at_random_agree():
    x = numbers((1 << 12,), 5).float() * torch.exp2(torch.arange(-90, 90).repeat(23)[: 1 << 12].float())
    x[:300] = torch.exp2(torch.arange(-90, 90).repeat(2)[:300].float()) * (1 + torch.arange(300) % 3 * 2**-20)
    for key in range(8):
        bits = random_bits(x, key)
        assert rounding._by_comparing(x, bits).equal(rounding._by_adding(x, bits))


KEPT = {"bf16_stochastic": torch.bfloat16, "bf16_split": torch.bfloat16, "nonnegative": torch.float32}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_store_writes_decay_then_update(name, dtype):
    store = STORES[name]()
    if not store.fits(dtype):
        assert name == "int8_trainable" or dtype != KEPT[name]
        return
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    param, update = numbers((50, 60)).to(dtype), numbers((50, 60), 2).to(arithmetic) * 0.01
    wanted, held = param.to(arithmetic) * 0.9 - update, param
    if name == "nonnegative":
        wanted = wanted.clamp(min=0)
    store.write_(param, update.clone(), 0.9, 3)
    assert param is held and param.dtype == dtype
    torch.testing.assert_close(param.to(arithmetic), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-30)
    again = numbers((50, 60)).to(dtype)
    store.put_(again, wanted.clone(), 3)
    torch.testing.assert_close(again.to(arithmetic), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-30)


def test_what_is_bfloat16_already_keeps_every_bit():
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()]
    for way in (rounding._by_comparing, rounding._by_adding):
        rounded = way(x.float(), random_bits(x.float(), 5)).to(torch.bfloat16)
        assert rounded.view(torch.int16).equal(x.view(torch.int16)), way.__name__


def test_tiny_updates_of_bf16_weights_arrive_on_average():
    start = torch.full((1 << 14,), 0.02, dtype=torch.bfloat16)
    moved = {}
    for name in ("bf16_stochastic", "dense"):  # int8_trainable: tests/model/quantization/test_int8_trainable.py
        param = start.clone()
        for key in range(20):
            STORES[name]().write_(param, torch.full(param.shape, 1e-6), 1.0, key)
        moved[name] = (start.float() - param.float()).mean().item()
    assert abs(moved["bf16_stochastic"] - 2e-5) < 2e-6
    assert moved["dense"] == 0  # to nearest, nothing arrives
