"""Every source held to its contract: directions, slots, weights, and the sign of its estimate."""

import json
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning, Policy, Route, Treatment, wrap
from hybridopt.core.contracts import Draw, Population, ProbeScheme
from hybridopt.core.numerics.directions import Direction, values
from hybridopt.core.registry import build, pack, unpack
from hybridopt.execution import probe_gradient as estimate
from hybridopt.execution import slices
from hybridopt.parts.rules.sgd import SGD
from hybridopt.parts.splits.empty import Empty
from support import models
from support.parts import CODECS, POLICIES, RULES, SOURCES, SPLITS, has, split_of
from support.training import state_bytes

CPU = torch.device("cpu")
PROBING = [name for name, source in SOURCES.items() if source().scheme is not None]
SHAPES = [(), (1,), (7,), (5, 9), (40, 30), (3, 4, 6), (2, 3, 3, 3), (0,), (3, 0)]
SETTINGS = {"eps": 3e-3, "samples": 3, "kind": "gaussian", "clip": 2.0, "pool": 5, "density": 0.5, "rank": 4}
SETTINGS |= {"update_gap": 3, "alpha": 0.25, "zeroth": SOURCES["lezo"](density=0.5)}
MEMBERS = Population((("l.0.w", 1200), ("l.1.w", 1200), ("other", 7)))


def configured(name):
    """A source with options of its own."""
    return SOURCES[name](**{k: v for k, v in SETTINGS.items() if has(SOURCES[name], k)})


def at(step=0, name="other", seed=0, gap=0):
    return Draw(seed, name, step // gap if gap else 0, step, MEMBERS)


def noise(source, shape, step=0, index=0, name="other", seed=0):
    draw = at(step, name, seed, source.update_gap)
    return source.noise(draw, shape, index, basis(source, shape, draw))


def basis(source, shape, draw):
    found = {k: torch.full(s.shape, float("nan"), dtype=s.dtype) for k, s in source.slots(shape).items()}
    source.sample(found, draw)
    return found


def z_of(source, shape=(40, 30), start=0, count=None, **where):
    """The direction, or a piece of it, flat."""
    z, count = noise(source, shape, **where), torch.Size(shape).numel() - start if count is None else count
    return values(z, start, count, CPU) if isinstance(z, Direction) else z.values(start, count, CPU)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_plain_frozen_data_and_comes_back_from_json(name):
    for made in (SOURCES[name](), configured(name)):
        assert is_dataclass(made) and hash(made) == hash(replace(made))
        assert unpack(json.loads(json.dumps(pack(made))), "sources") == made
    with pytest.raises(FrozenInstanceError):
        made.eps = 1.0
    assert made != SOURCES[name]() or not fields(made)


@pytest.mark.parametrize("name", SOURCES)
def test_options_that_a_source_has_not_are_named(name):
    with pytest.raises(HybridOptError, match=r"no option 'epsilon' \(value 1\)"):
        build(SOURCES[name], {"epsilon": 1})


@pytest.mark.parametrize(
    ("option", "bad"),
    [("eps", [0, -1, float("inf"), "1e-3", True]), ("samples", [0, 1.5, True]), ("kind", ["normal", None])]
    + [("clip", [0, -1, float("nan")]), ("pool", [0, 2.5]), ("density", [0, 1.5, "a"]), ("rank", [0, 0.5])]
    + [("update_gap", [0, -3]), ("alpha", [0, 1.5]), ("zeroth", [None, "spsa"]), ("conservative", [1, None])],
)
def test_values_out_of_range_are_refused_by_name(option, bad):
    owners = [source for source in SOURCES.values() if has(source, option)]
    assert owners
    for source in owners:
        for value in bad:
            with pytest.raises(HybridOptError, match=option):
                source(**{option: value})


@pytest.mark.parametrize("name", SOURCES)
def test_the_scheme_says_what_is_measured_and_is_that_of_equal_options(name):
    one, other = configured(name), configured(name)
    assert one.scheme == other.scheme and hash(one.scheme) == hash(other.scheme)
    assert one.backward or one.scheme is not None, "it has no gradient at all"
    assert 0 <= one.share <= 1 and (one.share > 0) == one.backward
    if name in PROBING:
        assert isinstance(one.scheme, ProbeScheme) and one.eps > 0
        assert one.scheme.samples == getattr(one, "samples", getattr(one, "zeroth", one).scheme.samples)
        assert len(one.weights([0.5] * one.scheme.samples)) == one.scheme.samples
    else:
        assert one.weights(()) == () and one.noise(at(), (5, 9), 0, {}) is None and one.slots((5, 9)) == {}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PROBING)
def test_a_basis_is_what_is_declared_and_a_direction_has_a_number_everywhere(name, shape):
    source = configured(name)
    found = basis(source, shape, at())
    assert {k: (tuple(x.shape), x.dtype) for k, x in found.items()} == {
        k: (tuple(s.shape), s.dtype) for k, s in source.slots(shape).items()
    }
    assert all(x.isfinite().all() for x in found.values()), "sample does not fill its slots"
    assert bool(found) <= (source.update_gap > 0)
    z = z_of(source, shape)
    assert z.shape == (torch.Size(shape).numel(),) and z.dtype == torch.float32 and z.isfinite().all()


@pytest.mark.parametrize("name", PROBING)
def test_directions_depend_on_seed_name_step_and_index_alone(name):
    axes = product((0, 1, 7), (0, 2), ("other", "o"), (0, 3))
    places = [dict(zip(("step", "index", "name", "seed"), values, strict=True)) for values in axes]
    one = [z_of(configured(name), **place) for place in places]
    torch.manual_seed(99)
    other = [z_of(configured(name), **place) for place in reversed(places)]
    assert all(a.equal(b) for a, b in zip(one, reversed(other), strict=True))


@pytest.mark.parametrize("name", PROBING)
def test_another_seed_name_step_or_index_is_another_direction(name):
    source = replace(configured(name), pool=None) if has(SOURCES[name], "pool") else configured(name)
    first, size = z_of(source), 40 * 30
    for place in ({"step": 1}, {"step": 5}, {"index": 1}, {"name": "another"}, {"seed": 1}):
        other = z_of(source, **place)
        cosine = torch.cosine_similarity(first, other, 0).abs()
        assert cosine < (0.9 if not source.exact and name == "subzero" else 5 / size**0.5), place


@pytest.mark.parametrize(("start", "count"), [(0, 1), (1, 6), (127, 258), (29, 31), (640, 560), (1199, 1), (600, 0)])
@pytest.mark.parametrize("name", PROBING)
def test_a_slice_is_that_of_the_whole(name, start, count):
    source = configured(name)
    expected, found = z_of(source)[start : start + count], z_of(source, start=start, count=count)
    exact = isinstance(noise(source, (40, 30)), Direction)
    torch.testing.assert_close(found, expected, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5)


@pytest.mark.parametrize("name", PROBING)
def test_directions_have_mean_0_and_length_1_an_element(name):
    source = replace(configured(name), pool=None) if has(SOURCES[name], "pool") else configured(name)
    for shape in ((40, 30), (601,)):
        z = torch.stack([z_of(source, shape, step=step) for step in range(100)]).double()
        assert abs(z.mean()) < 5 / z.numel() ** 0.5 * (6 if name == "subzero" else 1)
        assert z.square().mean() == pytest.approx(1, abs=0.1 if name == "subzero" else 0.03)
        near = (z[:, 1:] * z[:, :-1]).mean().abs()  # neighbours know nothing of each other
        assert near < (0.1 if name == "subzero" else 0.02)


@pytest.mark.parametrize("name", PROBING)
def test_weights_are_proportional_to_the_slopes(name):
    source = replace(configured(name), clip=None) if has(SOURCES[name], "clip") else configured(name)
    slopes = [0.25, -1.5, 0.0]
    weights = source.weights(slopes)
    assert weights == pytest.approx([s * weights[0] / slopes[0] for s in slopes], rel=1e-12)
    assert source.weights([-2 * s for s in slopes]) == pytest.approx([-2 * w for w in weights], rel=1e-12)
    assert weights[0] > 0, "it would go uphill"
    assert all(isinstance(w, float) for w in weights)


def test_clipped_weights_keep_their_sign():
    source = SOURCES["spsa"](eps=0.1, samples=2, clip=2.0)
    assert source.weights([5.0, -5.0]) == (1.0, -1.0) and source.weights([0.1, -0.1]) == pytest.approx([0.5, -0.5])


@pytest.mark.parametrize("name", SOURCES)
def test_only_elementwise_noise_without_a_backward_pass_calls_itself_exact(name):
    for source in (SOURCES[name](), configured(name)):
        kinds = {type(noise(source, shape)) for shape in ((5, 9), (40, 30), (7,))} if source.scheme else {None}
        assert source.exact == (kinds == {Direction} and not source.backward)


# ---- what an optimizer makes of it


STEPS = 30


class Bowl(nn.Module):
    """1/2 (x - c)^T A (x - c) for a matrix in a layer, another one, and a vector."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.l = nn.ModuleList(nn.Linear(8, 6, bias=False) for _ in range(2))  # noqa: E741
        self.other = nn.Parameter(torch.zeros(7))
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        count = sum(p.numel() for p in self.parameters())
        self.curve = torch.rand(count, generator=generator) * 0.2 + 0.9
        self.start = [p.detach().clone() for p in self.parameters()]

    def forward(self):
        x = torch.cat([p.flatten() for p in self.parameters()])
        return 0.5 * (self.curve * x.square()).sum()


def estimates(source, steps):
    """The gradients that steps of size 1 from one and the same place go against, and the true one: by name."""
    model = Bowl()
    policy = Policy((Route(Treatment(source=source, free=SGD(), split=Empty())),))
    optimizer = HybridOptimizer(model.named_parameters(), lr=1.0, policy=policy, module=model)
    true = dict(zip(dict(model.named_parameters()), torch.autograd.grad(model(), model.parameters()), strict=True))
    found = {n: [] for n in true}
    for _ in range(steps):
        with torch.no_grad():
            for p, start in zip(model.parameters(), model.start, strict=True):
                p.copy_(start)
        optimizer.step(model)
        optimizer.zero_grad()
        for (n, p), start in zip(model.named_parameters(), model.start, strict=True):
            found[n].append((start - p.detach()).double())
    return {n: torch.stack(x) for n, x in found.items()}, {n: g.double() for n, g in true.items()}


@pytest.mark.parametrize("name", PROBING)
def test_the_estimate_points_along_the_gradient(name):
    options = {"samples": 8, "eps": 1e-2, "rank": 2, "density": 0.5, "alpha": 0.5, "update_gap": 1}
    source = SOURCES[name](**{k: v for k, v in options.items() if has(SOURCES[name], k)})
    found, true = estimates(source, STEPS)
    for n, g in true.items():
        assert (found[n].mean(0) * g).sum() > 0, f"uphill in {n}"
    if name != "lezo":  # whose layers take turns
        size = sum((found[n].mean(0) * g).sum() for n, g in true.items()) / sum(
            g.square().sum() for g in true.values()
        )
        assert size == pytest.approx(1, abs=0.3) or (source.scheme.normalized and size > 0)
    mean, g = (torch.cat([x[n].flatten() for n in true]) for x in ({n: x.mean(0) for n, x in found.items()}, true))
    assert torch.cosine_similarity(mean, g, 0) > 0.5
    if source.scheme.two_sided and not source.backward:  # of a quadratic loss every single one does
        alone = torch.stack([torch.cat([found[n][k].flatten() for n in true]) @ g for k in range(STEPS)])
        assert (alone > 0).all()


# ---- what policies and updates make of it


ZEROTH = [n for n, p in POLICIES.items() if any(r.use and r.use.probed for r in p().routes)]
ELEMENTWISE = [n for n in ZEROTH if not hasattr(POLICIES[n], "opens_scales")]  # whose weights are those of the model


def odd_parameters():
    """Every shape, layout and dtype that a parameter can have, in layers."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    found = {"l.0.scalar": random(), "l.1.empty": random(0, 3), "l.2.one": random(1), "l.3.t": random(7, 9).t()}
    found |= {
        "l.4.last": random(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "l.5.double": random(8, 7).double(),
    }
    return {n: nn.Parameter(x) for n, x in (found | {"l.6.strided": random(6, 8)[:, ::2]}).items()}


def restated(source, name, p, slopes, step=0, members=MEMBERS):
    """The estimate, in the shape of the parameter."""
    shape = tuple(p.shape)
    draw = Draw(0, name, step // source.update_gap if source.update_gap else 0, step, members)
    found, total = basis(source, shape, draw), torch.zeros(p.numel(), dtype=p.dtype)
    for k, weight in enumerate(source.weights(slopes)):
        z = source.noise(draw, shape, k, found)
        if z is None:
            return None
        total += weight * (values(z, 0, p.numel(), CPU) if isinstance(z, Direction) else z.values(0, p.numel(), CPU))
    return total.view(shape)


@pytest.mark.parametrize("name", PROBING)
@pytest.mark.parametrize("full", ["sgd", "adamw"])
def test_parameters_of_any_shape_layout_and_dtype_step_as_the_estimate_says(name, full):
    params, lr, source = odd_parameters(), torch.tensor(1e-2), SOURCES[name]()
    treatment = Treatment(source=source, full=RULES[full]())
    optimizer = HybridOptimizer(params.items(), lr=lr, weight_decay=0.1, policy=Policy((Route(treatment),)))
    before, strides = {n: p.detach().clone() for n, p in params.items()}, {n: p.stride() for n, p in params.items()}
    loss = lambda: sum(p.square().sum().float() for p in params.values())  # noqa: E731
    optimizer.probe(loss)
    slopes = optimizer.slopes
    if source.backward:
        loss().backward()
    optimizer.step()
    members = Population(tuple((n, p.numel()) for n, p in params.items()))
    for n, p in params.items():
        grad = restated(source, n, before[n], slopes, members=members)
        if grad is None:
            assert p.equal(before[n])
            continue
        grad = grad + source.share * 2 * before[n] if source.backward else grad
        direction = grad if full == "sgd" else grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), before[n] * (1 - 1e-3) - 1e-2 * direction, rtol=1e-5, atol=1e-6, msg=n)
        assert p.stride() == strides[n]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("full", ["adamw", "momentum", "adafactor"])
def test_an_estimate_is_a_gradient_like_any_other(full, split):
    """Windows, bases that are sampled from gradients and state go on as with a backward pass, step after step."""
    if (full, split) == ("adafactor", "randk"):
        return
    source, rest = SOURCES["spsa"](eps=1e-2, samples=2), {"free": RULES["sgd"](), "split": split_of(split, 0.4)}
    policies = [
        Policy((Route(Treatment(full=RULES[full](), source=s, **rest)),)) for s in (source, Treatment().source)
    ]
    both = [{f"l.{i}.w": nn.Parameter(numbers((6, 9), i)) for i in range(2)} for _ in policies]
    ours, theirs = (HybridOptimizer(p.items(), lr=1e-2, policy=q) for p, q in zip(both, policies, strict=True))
    for step in range(5):
        ours.probe(lambda: sum((p - 1).square().sum() for p in both[0].values()))
        for n, p in both[1].items():
            p.grad = restated(source, n, p, ours.slopes, step)
        ours.step()
        theirs.step()
        for n, p in both[0].items():
            torch.testing.assert_close(p, both[1][n], rtol=1e-5, atol=1e-6, msg=f"{n}, step {step}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("full", [n for n, rule in RULES.items() if rule().slots((4, 4)) or n == "normalized_sgd"])
def test_slices_of_an_estimate_give_what_the_whole_gives(monkeypatch, full, dtype):
    results = []
    for elements in (1 << 16, 16):
        monkeypatch.setattr(slices, "ELEMENTS", {"cpu": elements})
        monkeypatch.setattr(estimate, "PIECES", {"cpu": elements})
        params = {n: nn.Parameter(numbers(shape, 0).to(dtype)) for n, shape in (("w", (8, 6)), ("stack", (3, 4, 6)))}
        policy = Policy((Route(Treatment(full=RULES[full](), source=SOURCES["spsa"](samples=2, eps=1e-2))),))
        optimizer = HybridOptimizer(params.items(), lr=1e-2, weight_decay=0.1, policy=policy)
        for _ in range(3):
            optimizer.step(lambda params=params: sum(p.float().square().sum() for p in params.values()))
        results.append([p.detach() for p in params.values()])
    rtol = 2**-7 if dtype == torch.bfloat16 else 1e-5  # sums are made in another order, or by torch's own kernels
    torch.testing.assert_close(*results, rtol=rtol, atol=1e-5)


def numbers(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_policies_declare_the_bytes_they_allocate_and_ask_for_gradients_only_to_mix(name):
    options = [{"codec": codec} for codec in CODECS] if has(POLICIES[name], "codec") else [{}]
    for option in [*options, {"norms": "frozen", "embeddings": "frozen"}]:
        model = wrap(models.tiny_llama(hidden=64), policy=name, **option)
        optimizer, batch = model.hybrid.optimizer(lr=1e-4), models.batch(model, size=1)
        mixes = any(r.use and r.use.source.backward for r in POLICIES[name]().routes)
        tags = model.hybrid.tags
        assert {n for n, p in model.named_parameters() if p.requires_grad} == (
            {n for n, tag in tags.items() if tag != "frozen"} if mixes else set()
        )
        optimizer.step(lambda model=model, batch=batch: model(**batch).loss)
        bases = optimizer._parameters.shifts.noises._bases.values()
        kept = state_bytes(optimizer) + sum(x.nbytes for _, found in bases for x in found.values())
        assert kept == model.hybrid.report().totals.state_bytes
        assert set(tags.values()) <= {"state-free", "state-full", "frozen"}


@pytest.mark.parametrize("name", ZEROTH)
def test_options_that_a_policy_has_not_are_named(name):
    with pytest.raises(HybridOptError, match="no option 'epsilon'"):
        wrap(nn.Linear(3, 3), policy=name, epsilon=1)


def test_parameters_added_later_take_part_at_the_step_that_the_others_are_in():
    first, later = (nn.Parameter(numbers((5, 4), i)) for i in range(2))
    optimizer = HybridOptimizer([("a", first)], lr=1e-2, policy="mezo", eps=1e-2)
    loss = lambda: first.square().sum() + later.square().sum()  # noqa: E731
    optimizer.step(loss)
    optimizer.add_param_group({"params": [("b", later)], "lr": 3e-2})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    before = later.detach().clone()
    optimizer.probe(loss)
    slopes = optimizer.slopes
    optimizer.step()
    schedule.step()
    expected = before - 1.5e-2 * restated(SOURCES["spsa"](eps=1e-2), "b", later, slopes, step=1)
    torch.testing.assert_close(later.detach(), expected)


def test_scales_of_learning_rates_multiply_the_estimate():
    rest = {"source": SOURCES["spsa"](eps=1e-2), "free": SGD(), "lr_scale": 3.0, "free_lr_scale": 0.5}
    for split, scale in (("empty", 1.5), ("whole", 3.0)):
        p = nn.Parameter(numbers((5, 4), 0))
        treatment, before = Treatment(full=SGD(), split=SPLITS[split](), **rest), p.detach().clone()
        optimizer = HybridOptimizer([("a", p)], lr=1e-2, policy=Policy((Route(treatment),)))
        optimizer.probe(lambda p=p: p.square().sum())
        slopes = optimizer.slopes
        optimizer.step()
        expected = before - 1e-2 * scale * restated(treatment.source, "a", p, slopes)
        torch.testing.assert_close(p.detach(), expected)


# ---- what stands still, and what cannot be


def test_frozen_and_idle_parameters_are_neither_shifted_nor_moved():
    mixed, idle = SOURCES["mix"](alpha=0.5), split_of("block", 0.5)
    blocks = Treatment(source=SOURCES["spsa"](), full=SGD(), free=RULES["no_update"](), split=idle)
    for treatment, asked in ((Treatment(source=mixed, free=SGD(), split=Empty()), True), (blocks, False)):
        params = {n: nn.Parameter(numbers((4, 4), 0)) for n in "ab"}
        optimizer = HybridOptimizer(params.items(), lr=1e-2, policy=Policy((Route(treatment),)))
        still = "a"
        if asked:
            params["a"].requires_grad_(False)
        else:
            jobs = {n: optimizer._parameters.windows.of(n, p).idle for n, p in params.items()}
            assert sorted(jobs.values()) == [False, True]
            still = next(n for n, idle in jobs.items() if idle)
        before, seen = params[still].detach().clone(), []
        with pytest.warns(HybridOptWarning) if asked else nullcontext():
            optimizer.step(partial(_noted, params, still, seen))
        assert params[still].equal(before) and all(x.equal(before) for x in seen)


def _noted(params, still, seen):
    seen.append(params[still].detach().clone())
    return sum(p.square().sum() for p in params.values())


@pytest.mark.parametrize("release", ["accumulate", "fused"])
def test_first_order_parts_wait_for_the_probe_of_the_others(release):
    routes = Route(Treatment(source=SOURCES["spsa"](), free=SGD(), split=Empty()), name="bias"), Route(Treatment())
    model = wrap(nn.Linear(3, 3), policy=Policy(routes))
    optimizer, before = model.hybrid.optimizer(lr=1e-2, release=release), model.weight.detach().clone()
    x = numbers((2, 3), 0)
    with pytest.raises(HybridOptError, match=r"optimizer\.probe\(loss_fn\)"):
        model(x).square().sum().backward()
        optimizer.step()
    assert model.weight.equal(before)
    optimizer.zero_grad()
    optimizer.probe(lambda: model(x).square().sum())
    model(x).square().sum().backward()
    optimizer.step()
    assert not model.weight.equal(before) and optimizer.param_groups[0]["step"] == 1


def test_one_tensor_under_two_names_is_refused():
    p = nn.Parameter(torch.ones(3, 3))
    with pytest.warns(UserWarning, match="duplicate"), pytest.raises(HybridOptError, match="'a' and 'b' are one"):
        HybridOptimizer([("a", p), ("b", p)], policy="mezo")


def test_a_conservative_step_is_tried_at_the_rate_at_which_it_is_made():
    source, params = SOURCES["spsa"](eps=1e-3, conservative=True), {"a": nn.Parameter(numbers((6, 6), 0))}
    rest = {"source": source, "full": SGD(), "free": SGD(), "free_lr_scale": 1e-3}
    loss = lambda: params["a"].square().sum()  # noqa: E731
    optimizer = HybridOptimizer(params.items(), lr=10.0, policy=Policy((Route(Treatment(**rest)),)))
    before = loss().item()
    optimizer.step(loss)
    assert loss().item() <= before
    split = Policy((Route(Treatment(split=split_of("columns", 0.5), **rest)),))
    with pytest.raises(HybridOptError, match=r"free_lr_scale=0\.001"):
        HybridOptimizer(params.items(), policy=split)


def test_compiling_changes_no_bit_where_directions_are_exact():
    results = []
    for compile in (False, True):
        p = nn.Parameter(numbers((40, 40), 0))
        optimizer = HybridOptimizer([("a", p)], lr=1e-2, weight_decay=0.1, policy="mezo", samples=2, compile=compile)
        for _ in range(3):
            optimizer.step(lambda p=p: p.square().sum())
        results.append(p.detach())
    assert results[0].equal(results[1])
