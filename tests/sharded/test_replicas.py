"""Replicas (DistributedDataParallel) train as one process that averages the same gradients, bit for bit."""

import gc
import warnings
from unittest.mock import patch

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, Policy, Route, Treatment
from hybridopt.model.quantization.coded import plain
from hybridopt.optimizer.replicas import reducer

pytestmark = pytest.mark.slow

CELLS = {  # options; how DDP is put around the model ("late": after the optimizer was made)
    "adamw": ({"policy": "adamw", "weight_decay": 0.1}, {}),
    "adamw-late": ({"policy": "adamw"}, {"late": True, "gradient_as_bucket_view": True}),
    "columns": ({"density": 0.5, "update_gap": 2}, {"static_graph": True}),
    "block": ({"split": "block", "density": 0.5, "update_gap": 2}, {"late": True}),
    "badam": ({"policy": "badam", "update_gap": 1}, {}),
    "badam-late": ({"policy": "badam", "update_gap": 1}, {"late": True, "gradient_as_bucket_view": True}),
    "badam-static": ({"policy": "badam", "update_gap": 2}, {"static_graph": True, "gradient_as_bucket_view": True}),
    "galore": ({"policy": "galore", "density": 0.5, "update_gap": 2}, {"late": True, "static_graph": True}),
    "lomo": ({"policy": "lomo"}, {"gradient_as_bucket_view": True}),
    "muon": ({"policy": "muon"}, {"gradient_as_bucket_view": True}),
    "adalomo": ({"policy": "adalomo"}, {"find_unused_parameters": True}),
    "adam_mini-int8": ({"policy": "adam_mini", "codec": "int8"}, {}),
    "apollo-clipped": ({"policy": "apollo", "clip": 0.5, "clip_mode": "previous"}, {"late": True}),
    "lion-bf16": ({"policy": "lion", "codec": "bf16", "clip": 0.1, "clip_mode": "tensor"}, {}),
}
STEPS = 3
THREE = 1e-5  # of the largest change


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def data(step, rank):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(step * 10 + rank))


def replica(model, **options):
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, bucket_cap_mb=2e-4, **options)  # several buckets


def optimizer_of(model, options, release="accumulate"):
    return HybridOptimizer(model.named_parameters(), 0.05, module=model, release=release, compile=False, **options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def alone(options, passes=1, loss=lambda model, x: model(x).square().mean(), make=model_of, ranks=2):
    """Train one process by the mean of the sums of gradients of some ranks."""
    model = make()
    optimizer = optimizer_of(model, options)
    for step in range(STEPS):
        sums = []
        for rank in range(ranks):
            for i in range(passes):
                loss(model, data(step + 100 * i, rank)).backward()
            sums.append([p.grad for p in model.parameters()])
            optimizer.zero_grad()
            for p in model.parameters():
                p.grad = None
        for p, *each in zip(model.parameters(), *sums, strict=True):
            got = [x / ranks for x in each if x is not None]
            p.grad = sum(got) if got else None
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


def trained(options, how, release, make=model_of):
    how = dict(how)
    late, model = how.pop("late", False), make()
    if late:
        optimizer = optimizer_of(model, options, release)
    ddp = replica(model, **how)
    if not late:
        optimizer = optimizer_of(model, options, release)
    for step in range(STEPS):
        ddp(data(step, distributed.get_rank())).square().mean().backward()
        assert release == "accumulate" or all(p.grad is None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


def all_cells(changes=()):
    warnings.simplefilter("error")
    cells = {name: (options | dict(changes).get(name, {}), how) for name, (options, how) in CELLS.items()}
    return {(name, release): trained(*cells[name], release) for name in cells for release in ("accumulate", "fused")}


@pytest.fixture(scope="module")
def found(two):
    return two.run(all_cells)


@pytest.mark.parametrize("name", CELLS)
def test_the_same_bits_as_one_process_in_both_releases(name, found):
    expected = alone(CELLS[name][0])
    for ranks in found:
        for release in ("accumulate", "fused"):
            for x, y in zip(expected, ranks[name, release], strict=True):
                assert x.equal(y), (release, (x - y).abs().max())


def test_three_ranks_have_one_weight_and_that_of_one_process_but_for_the_order_of_sums(three):
    changes = {"galore": {"update_gap": 100}}  # a new basis may have other signs than moments have seen
    ranks = three.run(all_cells, changes)
    assert all(same(first, other[key]) for other in ranks[1:] for key, first in ranks[0].items())
    for name, (options, _) in CELLS.items():
        kept, fused = (ranks[0][name, release] for release in ("accumulate", "fused"))
        expected = alone(options | changes.get(name, {}), ranks=3)
        for x, y, z, before in zip(kept, fused, expected, weights(model_of()), strict=True):
            far = THREE * (z - before).abs().max()
            assert (x - y).abs().max() <= far and (x - z).abs().max() <= far, name


def same(one, other):
    return all(x.equal(y) for x, y in zip(one, other, strict=True))


# ---- memory and traffic


def sizes():
    """What DDP has room for: of BAdam the block in turn; of fused updates nothing between two passes."""
    rank = distributed.get_rank()
    model = model_of()
    ddp = replica(model)
    optimizer = optimizer_of(model, {"policy": "badam", "update_gap": 1})
    rooms = []
    for step in range(3):
        ddp(data(step, rank)).sum().backward()
        rooms.append((elements(ddp), {n for n, p in model.named_parameters() if p.grad is not None}))
        optimizer.step()
        optimizer.zero_grad()
    model, held = model_of(), []
    ddp = replica(model)
    optimizer = optimizer_of(model, {"policy": "adamw"}, "fused")
    for step in range(3):
        ddp(data(step, rank)).sum().backward()
        lent = optimizer._replicas._buckets._lent
        held.append((len(lent), sum(storage.nbytes() for storage, _ in lent.values())))
        optimizer.step()
    del optimizer
    gc.collect()
    ddp(data(0, rank)).sum().backward()  # on its own again, it averages everything
    return rooms, held, elements(ddp), [p.grad for p in model.parameters()]


def elements(ddp):
    return sum(bucket.buffer().numel() for bucket in ddp.reducer._get_zeros_like_grad_buckets())


def test_only_the_block_in_turn_has_room_and_fused_updates_give_it_back(two):
    (rooms, held, after, one), (others, _, _, other) = two.run(sizes)
    sizes_of = {n: p.numel() for n, p in model_of().named_parameters()}
    assert rooms == others and len({tuple(sorted(names)) for _, names in rooms}) == 3
    for room, names in rooms:
        assert room == sum(sizes_of[n] for n in names) < sum(sizes_of.values())
    assert held == [(len(sizes_of), 0)] * 3
    assert after == sum(sizes_of.values()) and same(one, other)


# ---- several passes, parameters without a gradient, readers


def accumulated():
    out = {}
    for policy in ("adamw", "badam"):
        for release in ("accumulate", "fused"):
            model = model_of()
            ddp = replica(model)
            optimizer = optimizer_of(model, {"policy": policy}, release)
            for step in range(STEPS):
                with ddp.no_sync():
                    ddp(data(step, distributed.get_rank())).square().mean().backward()
                ddp(data(step + 100, distributed.get_rank())).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            out[policy, release] = weights(model)
    return out


def test_accumulation_with_no_sync(two):
    expected = {policy: alone({"policy": policy}, passes=2) for policy in ("adamw", "badam")}
    for ranks in two.run(accumulated):
        for (policy, release), got in ranks.items():
            assert same(expected[policy], got), (policy, release)


class Forked(nn.Module):
    """One rank alone uses a layer, nobody uses another; a third is read once more without a gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.some, self.none = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 6)

    def forward(self, x, rank):
        h = self.body(x)
        h = h + self.some(h) if rank else h
        return self.head(F.linear(h, self.head.weight.detach()).tanh())


def forked(find):
    rank, out = distributed.get_rank(), []
    for release in ("accumulate", "fused"):
        model = Forked()
        ddp = replica(model, **find)
        optimizer = optimizer_of(model, {"policy": "adamw"}, release)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(STEPS):
                ddp(data(step, rank), rank).square().mean().backward()
                if release == "fused":
                    assert model.head.weight.grad is not None and model.body.weight.grad is None
                optimizer.step()
                optimizer.zero_grad()
        out.append(weights(model))
    return out


def test_unused_parameters_and_weights_that_are_still_read(two):
    for kept, fused in two.run(forked, {"find_unused_parameters": True}):
        assert same(kept, fused)
        unchanged = [n for (n, p), x in zip(Forked().named_parameters(), kept, strict=True) if x.equal(p)]
        assert unchanged == ["none.weight", "none.bias"]


# ---- faults


def faults():
    """Errors come in the backward pass, after DDP has ended it; what cannot be done is refused."""
    from torch.nn.parallel import DistributedDataParallel

    rank = distributed.get_rank()
    model = model_of()
    ddp = replica(model)
    optimizer = optimizer_of(model, {"policy": "adamw"}, "fused")
    for step in range(4):
        x = data(step, rank)
        if step == 1 and rank == 0:
            x[0, 0] = torch.nan
            before = weights(model)
        if step == 1:
            with pytest.raises(HybridOptError, match="not finite at step 1"):
                ddp(x).square().mean().backward()
            optimizer.zero_grad()
        elif step == 3:  # as if it were a model of its own
            model(x).square().mean().backward()
            before = weights(model)
            with pytest.raises(HybridOptError, match="gradient of '0.weight' is that of this rank alone.*no_sync"):
                optimizer.step()
            assert same(before, weights(model))
            continue
        else:
            ddp(x).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    with optimizer.hold():
        ddp(data(0, rank)).square().mean().backward()
    for called in (model, ddp):  # what was averaged before says nothing of the last gradient
        with ddp.no_sync():
            called(data(1, rank)).square().mean().backward()
        with pytest.raises(HybridOptError, match="is that of this rank alone"):
            optimizer.step()
    with pytest.raises(HybridOptError, match="measure.. takes a backward pass of its own.*clip_mode='previous'"):
        optimizer.measure(model(x).sum())

    for releases in (("fused", "fused"), ("fused", "accumulate"), ("accumulate", "fused")):
        model = model_of()
        ddp, named = replica(model), list(model.named_parameters())
        some = {"module": model, "policy": "badam", "compile": False}
        first = HybridOptimizer(named[::2], 0.05, release=releases[0], **some)
        second = HybridOptimizer(named[1::2], 0.05, release=releases[1], **some)
        with pytest.raises(HybridOptError, match="two optimizers train one DistributedDataParallel.*unhook"):
            ddp(x)
        first.unhook()
        ddp(x).square().mean().backward()
        second.step()

    model = model_of()
    ddp = replica(model)
    ddp._register_builtin_comm_hook(distributed.BuiltinCommHookType.FP16_COMPRESS)
    optimizer = optimizer_of(model, {"policy": "badam"})
    with pytest.raises(HybridOptError, match="leave out the parameters that are not trained now.*built-in"):
        ddp(x)
    model = model_of()
    ddp, optimizer = replica(model), optimizer_of(model, {"policy": "badam"})
    with pytest.raises(HybridOptError, match="not trained now, as other parameters.*as many batches"), ddp.join():
        ddp(x)
    for private in ("_ddp_init_helper", "get_backward_stats"):
        with patch.object(reducer, "PRIVATE", f"no_more {private}"):
            with pytest.raises(
                HybridOptError, match="has no 'no_more', which tells what it is to average: take torch"
            ):
                ddp(x)
    model = model_of()
    optimizer = HybridOptimizer(model.named_parameters(), 0.05, release="fused")  # of no model that is known
    ddp = DistributedDataParallel(model)
    with pytest.raises(HybridOptError, match="lies in a DistributedDataParallel that the optimizer does not know"):
        ddp(x).sum().backward()
    return weights(model)


def test_faults_are_told_on_all_ranks(two):
    assert same(*two.run(faults))


# ---- codes that are trained


def coded(ranks=1):
    torch.manual_seed(0)
    model = hybridopt.wrap(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 6)), quantization="int8-trainable")
    called = replica(model, init_sync=False) if ranks > 1 else model
    optimizer, sums = model.hybrid.optimizer(lr=0.01), []
    for rank in (0, 1) if ranks == 1 else [distributed.get_rank()]:
        called(data(0, rank) @ torch.ones(6, 64)).square().mean().backward()
        sums.append([p.grad for p in model.parameters()])
        for p in model.parameters() if ranks == 1 else ():
            p.grad = None
    for p, a, b in zip(model.parameters(), *sums, strict=True) if ranks == 1 else ():
        p.grad = a * 0.5 + b * 0.5
    optimizer.step()
    return [x.detach() for p in model.parameters() for x in plain("", p.detach()).values()]


def test_codes_are_those_of_one_process_where_ddp_does_not_copy_them(two):
    for found in two.run(coded, 2):
        assert same(coded(), found)


# ---- what is frozen, hooks of users, resuming


def others():
    """A layer that is frozen once DDP is there; a hook of the user's; a run that goes on from what rank 0 saved."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    rank, out = distributed.get_rank(), {}
    policy = Policy((Route(None, name="0.*"), Route(Treatment())))
    for release in ("accumulate", "fused"):
        model = model_of()
        ddp = replica(model)
        optimizer = hybridopt.wrap(model, policy=policy).hybrid.optimizer(lr=0.05, release=release)
        for step in range(STEPS):
            ddp(data(step, rank)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        out["frozen", release] = weights(model)

        model = model_of()
        ddp = replica(model)
        ddp.register_comm_hook(None, fp16_compress_hook)
        optimizer = optimizer_of(model, {"policy": "adamw"}, release)
        for step in range(STEPS):
            ddp(data(step, rank)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        out["compressed", release] = weights(model)

    for policy in ("badam", "galore"):
        models = model_of(), model_of()
        first, second = (replica(m) for m in models)
        one = optimizer_of(models[0], {"policy": policy, "update_gap": 2}, "fused")
        two = optimizer_of(models[1], {"policy": policy, "update_gap": 2}, "fused")
        for step in range(6):
            if step == 3:
                saved = [(models[0].state_dict(), one.state_dict()) if rank == 0 else None]
                distributed.broadcast_object_list(saved)
                models[1].load_state_dict(saved[0][0])
                two.load_state_dict(saved[0][1])
                del saved  # it shares memory with the weights
            for ddp, optimizer in [(first, one), (second, two)][: 1 if step < 3 else 2]:
                ddp(data(step, rank)).square().mean().backward()
                optimizer.step()
        out[policy] = same(*(weights(model) for model in models))
    return out


def test_frozen_layers_hooks_of_users_and_resuming(two):
    ranks = two.run(others)
    frozen = alone({"policy": Policy((Route(None, name="0.*"), Route(Treatment())))})
    for out in ranks:
        assert out["badam"] and out["galore"]
        for release in ("accumulate", "fused"):
            assert same(frozen, out["frozen", release]), release
        assert same(out["compressed", "accumulate"], out["compressed", "fused"])
        assert not same(alone({"policy": "adamw"}), out["compressed", "fused"])
