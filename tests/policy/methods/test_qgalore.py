"""Q-GaLore: 4-bit projections, 8-bit Adam, and a search for directions only where they move."""

import io

import numpy as np
import pytest
import torch

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.contracts import Draw
from hybridopt.parts.splits._int4 import Int4Basis
from hybridopt.parts.splits.svd import Svd
from support.models import batch, tiny_llama
from support.reference.qgalore import QGaLore, dequantize, quantize, searches
from support.saved import bits, different
from support.training import advance, assert_same, give, optimize, state_of, tensors

SHAPES = {"tall.weight": (34, 24), "wide.weight": (24, 34), "square.weight": (30, 30)}
GAP, STEPS, LR, SCALE = 4, 16, 0.02, 0.25


def qgalore(params, **options):
    usual = {"density": 0.5, "update_gap": GAP, "scale": SCALE, "lr": LR}
    return optimize(params, policy="qgalore", **usual | options)


def sampled(part, x, window=0, basis=None):
    """The part's basis, filled from `x` on top of what it is already."""
    basis = basis or {k: torch.zeros(s.shape, dtype=s.dtype) for k, s in part.slots(tuple(x.shape)).items()}
    part.sample(x, basis, Draw(0, "w", window, fresh=not any(v.any() for v in basis.values())))
    return basis


def numbers(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def used(part, x, basis):
    """The projection that a part applies, from what it does to the unit matrix."""
    n = x.shape[-1] if part.inner.right else x.shape[-2]
    eye = torch.eye(n, dtype=x.dtype)
    return part.down(eye, basis) if part.inner.right else part.down(eye, basis).mT


# ---- the projection in 4 bits


@pytest.mark.parametrize("shape", [(34, 24), (24, 34), (7, 5), (3, 8, 6)])
def test_the_projection_as_restated(shape):
    x = numbers(shape)
    part = Svd(0.5, 1, bits=4, solver="exact").at(Draw(0, "w"), shape)
    exact = Svd(0.5, 1, solver="exact").at(Draw(0, "w"), shape)
    q = sampled(exact, x)["basis"]
    basis = sampled(part, x)
    wanted = dequantize(*quantize(q.double().numpy(), 15), tuple(q.shape))
    low = part.down(x, basis)
    q4 = torch.from_numpy(wanted).float()
    torch.testing.assert_close(low, x @ q4 if exact.right else q4.mT @ x, rtol=1e-4, atol=1e-5)
    whole = part.up_(part.rest(x, basis).clone(), low, basis)
    torch.testing.assert_close(whole, x, rtol=1e-5, atol=1e-5)


def test_two_codes_in_a_byte():
    """The reference keeps one in each: no smaller than 8 bits."""
    part = Svd(0.25, 1, bits=4).at(Draw(0, "w"), (512, 256))
    size = sum(s.dtype.itemsize * torch.Size(s.shape).numel() for s in part.slots((512, 256)).values())
    assert size == 64 * 256 // 2 + 5 * 64
    assert sampled(part, numbers((512, 256)))["basis"].unique().numel() > 100


def test_a_projection_of_one_sign_keeps_its_values():
    part = Int4Basis(Svd(0.1, 1).at(Draw(0, "w"), (40, 10)))
    x = torch.ones(40, 10) + numbers((40, 10)).abs() * 0.01
    q = used(part, x, sampled(part, x))
    assert (q.abs() - 0.316).abs().max() < 0.02


# ---- steps


def test_as_restated():
    """With exact moments, as rounding at random cannot be restated; in float64, as float32 rounds ties otherwise."""
    params = tensors(SHAPES, torch.float64)
    parts = {n: Svd(0.5, GAP, bits=4, solver="exact").at(Draw(0, n), tuple(p.shape)) for n, p in params.items()}
    optimizer = qgalore(params, codec="fp32", threshold=None, solver="exact", spread=False)
    restated = {n: QGaLore(p.detach().numpy(), round(min(p.shape) * 0.5), GAP, LR, SCALE) for n, p in params.items()}
    for step in range(STEPS):
        give(params, step)
        optimizer.step()
        for name, p in params.items():
            basis = {k.removeprefix("split."): x for k, x in optimizer.state[p].items() if k.startswith("split.")}
            restated[name].step(p.grad.numpy(), used(parts[name], p, basis).numpy())
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), restated[name].weight, 1e-6, 1e-6, err_msg=name)


def test_state_in_eight_and_four_bits():
    params = tensors({"a.weight": (128, 256), "b.norm": (300,)})
    optimizer = qgalore(params, density=0.25)
    give(params, 0)
    optimizer.step()
    state = {k: x for k, x in optimizer.state[params["a.weight"]].items() if isinstance(x, torch.Tensor)}
    low, side = 32 * 256, 128 * 32
    sizes = {"exp_avg": low, "exp_avg_absmax": 4 * low // 256, "exp_avg_sq": low, "exp_avg_sq_absmax": 4 * low // 256}
    sizes |= {"split.basis": side // 2, "split.basis_scale": 4 * side // 256, "split.basis_zero": side // 256}
    sizes |= {"split.cosine": 20, "split.clock": 24}
    assert {k: x.nbytes for k, x in state.items()} == sizes


# ---- the search for directions


def turning(cosines):
    """Gradients whose leading directions have these cosines from one to the next."""
    angle, found = 0.0, []
    for i, cosine in enumerate([None, *cosines]):
        angle += 0.0 if cosine is None else float(np.arccos(cosine))
        lead = torch.tensor([np.cos(angle), np.sin(angle), 0, 0], dtype=torch.float32)
        sign = -1 if i % 2 else 1  # which means nothing
        found.append(torch.diag(torch.tensor([0, 0, 0.2, 0.1])) + sign * torch.outer(torch.ones(4), lead) * 3)
    return found


CASES = {
    "still": [1.0] * 20,
    "moving": [0.1] * 20,
    "settling": [0.0, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9, *[0.0] * 7],
    "at the edge": [0.41, 0.39, 0.42, 0.41, 0.40, *[0.1] * 9],
}


@pytest.mark.parametrize("solver", ["exact", "subspace"])
@pytest.mark.parametrize("name", CASES)
def test_searches_as_restated(name, solver):
    """Every search turns the leading direction by the next angle; the sign of the gradient's does not count."""
    windows, gradients = 14, turning(CASES[name])
    part = Svd(0.25, 1, side="right", threshold=0.4, solver=solver).at(Draw(0, "w"), (4, 4))
    basis, found = None, []
    for window in range(windows):
        before = 0 if basis is None else int(basis["clock"][2])
        basis = sampled(part, gradients[before], window, basis)
        found += [window] if basis["clock"][2] > before else []
    assert found == searches(CASES[name], windows, 0.4)
    assert (len(found) == windows) == (name == "moving")


def test_directions_that_stand_still_are_searched_less_and_less_often(monkeypatch):
    calls, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(0) or svd(*a, **k))
    made = {}
    for threshold in (0.4, None):
        params = tensors({"a.weight": (16, 16)})
        optimizer = qgalore(params, update_gap=1, threshold=threshold, solver="exact")
        calls.clear()
        for _ in range(24):
            give(params, 0)
            optimizer.step()
        made[threshold] = len(calls)
    assert made == {0.4: len(searches([1.0] * 24, 24, 0.4)), None: 24} and made[0.4] == 9


def test_moments_and_directions_survive_a_window_without_a_search():
    params = tensors({"a.weight": (16, 16)})
    p, optimizer = params["a.weight"], qgalore(params, update_gap=1)
    for _ in range(6):
        give(params, 0)
        optimizer.step()
    before = state_of(optimizer, params)["a.weight"]
    assert before["split.clock"].tolist() == [7, 2, 6]
    p.grad = numbers((16, 16), 9)
    optimizer.step()
    after = state_of(optimizer, params)["a.weight"]
    assert after["step"] == 7 and after["window"] == 6
    assert_same({k: x for k, x in after.items() if "split" in k}, {k: x for k, x in before.items() if "split" in k})
    optimizer.step()
    assert optimizer.state[p]["split.clock"].tolist()[2] == 7
    assert not optimizer.state[p]["split.basis"].equal(before["split.basis"])


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_it_resumes_to_the_last_bit(stop):
    params = tensors({"a.weight": (16, 16), "b.0.weight": (80, 80)})
    others = {n: torch.nn.Parameter(p.detach().clone()) for n, p in params.items()}
    one = qgalore(params, update_gap=1, density=0.9)
    advance(one, params, stop)
    two = qgalore(others, update_gap=1, density=0.9)
    for n, p in others.items():
        p.data.copy_(params[n].data)
    two.load_state_dict(torch.load(saved(one), weights_only=True))
    advance(one, params, 6, stop)
    advance(two, others, 6, stop)
    assert_same(dict(params), dict(others))
    assert_same(state_of(one, params), state_of(two, others))


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return file


# ---- on a model


@pytest.mark.parametrize("quantization", [None, "int8-trainable"])
def test_a_model_learns_saves_and_goes_on(quantization, tmp_path):
    def make():
        return hybridopt.wrap(tiny_llama(layers=1), "qgalore", quantization=quantization, update_gap=3, scale=1.0)

    model = make()
    optimizer, losses = model.hybrid.optimizer(lr=5e-3), []
    for step in range(16):
        loss = model(**batch(model, seed=step % 2)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    allocated = sum(x.nbytes for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor))
    assert allocated == model.hybrid.report().totals.state_bytes
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(layers=1), tmp_path)
    assert not different(bits(again), bits(model))
    assert again.hybrid.policy == model.hybrid.policy and again.hybrid.tags == model.hybrid.tags
    assert {again.hybrid.tags[n] for n, _ in again.named_parameters() if "proj" in n} == {"split"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 8}, "bits=8 is not allowed; give 4 or 32"),
        ({"threshold": 1.5}, r"threshold=1.5 is not allowed; give a number in \[0, 1\]"),
        ({"density": 2}, "density=2 is not allowed"),
        ({"side": "up"}, "side='up'"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(HybridOptError, match=text):
        hybridopt.wrap(tiny_llama(layers=1), "qgalore", **options)
