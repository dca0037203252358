"""Parameters of every shape, dtype and memory layout, alone and together."""

import pytest
import torch

from hybridopt import HybridOptimizer, Policy, Route, Treatment
from hybridopt.core.registry import make
from hybridopt.execution import slices
from hybridopt.execution.backends import banks, native
from support.parts import MATRIX_ONLY, SPLITS, has
from support.training import advance, assert_same, give, optimize, state_of, tensors, values

SHAPES = [(), (1,), (7,), (0,), (1, 6), (6, 1), (3, 0), (5, 9), (2, 5, 6), (1, 1, 1), (4, 3, 2, 2), (2, 2, 2, 2, 2)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FRUGAL_SPLITS = [name for name in SPLITS if has(SPLITS[name], "density")]


def everywhere(split, **options):
    """A policy that treats every parameter alike."""
    return Policy((Route(Treatment(split=make("splits", split, density=0.5, update_gap=2), **options)),))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("split", FRUGAL_SPLITS)
def test_every_shape_moves(split, dtype):
    shapes = [s for s in SHAPES if split not in MATRIX_ONLY or len(s) > 1]
    for role in ("linear", "conv"):
        params = tensors({f"layers.{i}.w": s for i, s in enumerate(shapes)}, dtype)
        roles = {n: role for n, p in params.items() if p.ndim > 2}
        optimizer = HybridOptimizer(params.items(), lr=0.1, policy=everywhere(split), roles=roles)
        before = values(params)
        advance(optimizer, params, 5)
        for name, p in params.items():
            assert p.dtype == dtype and p.isfinite().all()
            assert p.numel() == 0 or not p.detach().equal(before[name]), (name, p.shape)


@pytest.mark.parametrize("policy", ["frugal", "adamw", "galore", "badam", "signsgd", "apollo", "apollo_mini"])
def test_every_policy_takes_every_shape(policy):
    params = tensors({f"layers.{i}.w": s for i, s in enumerate(SHAPES)})
    optimizer = HybridOptimizer(params.items(), lr=0.1, policy=policy)
    advance(optimizer, params, 3)
    again = HybridOptimizer(params.items(), lr=0.1, policy=policy)
    again.load_state_dict(optimizer.state_dict())
    assert all(p.isfinite().all() for p in params.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_state_is_kept_in_the_codecs_dtype_whatever_the_weights(codec, dtype):
    params = tensors({"w": (64, 160)}, dtype)
    optimizer = optimize(params, codec=codec)
    advance(optimizer, params, 1)
    state = optimizer.state[params["w"]]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    wanted = {"fp32": (exact, exact), "bf16": (torch.bfloat16,) * 2, "int8": (torch.int8, torch.uint8)}[codec]
    assert (state["exp_avg"].dtype, state["exp_avg_sq"].dtype) == wanted
    assert state["split.index"].dtype == torch.int64


def test_dtypes_may_be_mixed_in_a_group():
    params = {str(dtype): tensors({str(dtype): (6, 8)}, dtype)[str(dtype)] for dtype in DTYPES}
    optimizer = optimize(params)
    assert len(optimizer.param_groups) == 1
    alone = {str(dtype): tensors({str(dtype): (6, 8)}, dtype) for dtype in DTYPES}
    advance(optimizer, params, 5)
    for name, single in alone.items():
        own = optimize(single)
        advance(own, single, 5)
        assert_same(params[name].detach(), single[name].detach())


def test_the_default_dtype_does_not_matter():
    results = []
    for default in (torch.float32, torch.float64, torch.bfloat16):
        torch.set_default_dtype(default)
        try:
            params = tensors({"w": (8, 6)}, torch.bfloat16)
            optimizer = optimize(params, split="random")
            advance(optimizer, params, 5)
            results.append((values(params), state_of(optimizer, params)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize("codec", ["fp32", "int8"])
@pytest.mark.parametrize("split", FRUGAL_SPLITS)
def test_memory_layout_does_not_matter(split, codec):
    """Transposed and sliced matrices, and convolution kernels in channels_last, move as contiguous ones."""

    def layouts(w):
        yield w.clone()
        yield w.mT.contiguous().mT
        if w.ndim == 4:
            yield w.contiguous(memory_format=torch.channels_last)
        yield torch.cat([w, w], -1)[..., : w.shape[-1]]

    for shape in [(12, 10), (6, 4, 3, 3)]:
        name = "layers.0.w"
        start = tensors({name: shape})[name].detach()
        results = []
        for w in layouts(start):
            params = {name: torch.nn.Parameter(w)}
            strides = w.stride()
            optimizer = HybridOptimizer(params.items(), lr=0.1, policy=everywhere(split, codec=make("codecs", codec)))
            for step in range(5):
                give(params, step)
                params[name].grad = torch.empty_like(w).copy_(params[name].grad)
                optimizer.step()
            assert params[name].stride() == strides
            results.append(params[name].detach().contiguous())
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-6)


def test_a_convolution_is_a_matrix_of_its_outputs():
    params = tensors({"conv.w": (6, 4, 3, 3)})
    optimizer = optimize(params, density=0.25)
    advance(optimizer, params, 1)
    assert optimizer.state[params["conv.w"]]["exp_avg"].shape == (6, 9)


def test_a_stack_of_experts_is_split_along_each_matrix():
    params = tensors({"experts.w": (3, 8, 12)})
    for split, shape in [("columns", (3, 8, 6)), ("rows", (3, 4, 12)), ("svd", (3, 4, 12)), ("randk", (144,))]:
        optimizer = optimize(params, split=split)
        advance(optimizer, params, 1)
        assert optimizer.state[params["experts.w"]]["exp_avg"].shape == shape


def test_tensors_that_are_no_parameters():
    w = torch.ones(4, 4, requires_grad=True)
    optimizer = HybridOptimizer([w], density=0.5, lr=0.5)
    w.grad = torch.ones(4, 4)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((4, 4), 0.5))


@pytest.mark.parametrize("split", FRUGAL_SPLITS)
@pytest.mark.parametrize("width", [255, 256, 512])
def test_blocks_of_the_codec_lie_in_the_state_not_in_the_weight(split, width):
    shape = (768, width)  # more than a slice, and as wide as a block of the codec
    codec = make("codecs", "int8")
    params = tensors({"layers.0.w": shape})
    optimizer = HybridOptimizer(params.items(), lr=0.1, policy=everywhere(split, codec=codec), compile=False)
    before = values(params)
    advance(optimizer, params, 3)
    assert params["layers.0.w"].isfinite().all() and not params["layers.0.w"].equal(before["layers.0.w"])


@pytest.mark.parametrize("rule", ["lion", "momentum", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_vector_is_cut_into_slices_as_a_matrix_is(rule, dtype, monkeypatch):
    monkeypatch.setattr(slices, "ELEMENTS", {"cpu": 100})
    vector, matrix = (torch.nn.Parameter(torch.linspace(-1, 1, 450, dtype=dtype).view(s)) for s in ((450,), (45, 10)))
    policy = Policy((Route(Treatment(full=make("rules", rule), lr_scale=0.5)),))
    for p in (vector, matrix):
        optimizer = HybridOptimizer([("norm.weight", p)], lr=0.1, policy=policy)
        monkeypatch.setattr(native.Native, "fits", lambda self, task: False)
        monkeypatch.setattr(banks.Banks, "fits", lambda self, task: False)
        for step in range(3):
            p.grad = (torch.arange(450, dtype=dtype) * (step + 1)).sin().view(p.shape)
            optimizer.step()
    assert vector.equal(matrix.flatten())
