"""Four ranks: replicas of shards (HSDP), and two models that two ranks each train: all meet in their own groups."""

import copy
import warnings
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch import distributed

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.execution.backends.native import Native
from hybridopt.saving.names import DELTA, REPLAY
from support.ranks import Ranks
from support.sharded_probing import Loss, batch, probed
from support.sharding import going_on, kept, sharded, trained, weights, whole

pytestmark = pytest.mark.slow

CELLS = {
    "adamw": {"policy": "adamw", "weight_decay": 0.1, "clip": 1.0},
    "adafactor": {"policy": "adafactor"},  # in rounds
    "muon": {"policy": "muon"},  # by one rank of each replica
    "galore": {"policy": "galore", "density": 0.5, "update_gap": 2},
    "addax": {"policy": "addax", "alpha": 0.3},
}
BOUND = {"adamw": 1e-6, "adafactor": 1e-5}  # norms and sums are added up in another order; others: to the bit
SAVED = ("adafactor", "muon")
STEPS = 2


@pytest.fixture(scope="module")
def four():
    made = Ranks(4, patience=20)
    yield made
    made.close()


def grid(*sizes):
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", sizes, mesh_dim_names=("models", "replicas", "shards")[3 - len(sizes) :])


def own(step, rank=None):
    return batch(10 * step + (distributed.get_rank() if rank is None else rank))


def by_name(optimizer):
    groups = optimizer.param_groups
    return [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]


def replicas(names, folder):
    """Train replicas of shards, each rank by batches of its own; return weights, gradients, slopes and all state."""
    out = {}
    for name in names:
        model, grads, slopes = sharded(Loss(), mesh=grid(2, 2)), [], []
        with warnings.catch_warnings(), patch.object(Native, "fits", lambda self, task: False):
            warnings.simplefilter("ignore")
            optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, **CELLS[name])
            with going_on(model, optimizer, f"{folder}/{name}", 0) if name in SAVED else nullcontext():
                for step in range(STEPS):
                    if optimizer.probes_needed:
                        optimizer.probe(lambda step=step, model=model: model(own(step)))
                    model(own(step)).backward()
                    grads.append({n: whole(p.grad).clone() for n, p in by_name(optimizer)})
                    slopes.append(optimizer.slopes)
                    optimizer.step()
                    optimizer.zero_grad()
        out[name] = weights(model), grads, slopes, kept(model, optimizer)
    return out


@pytest.fixture(scope="module")
def found(four, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs"))
    return folder, four.run(replicas, list(CELLS), folder)


def alone(options, grads, model, optimizer=None, first=0):
    """Train one process by these gradients, and by the losses of all four batches; return optimizer and slopes."""
    slopes = []
    with warnings.catch_warnings(), patch.object(Native, "fits", lambda self, task: False):
        warnings.simplefilter("ignore")
        optimizer = optimizer or HybridOptimizer(model.named_parameters(), 0.05, module=model, **options)
        for step, given in enumerate(grads, first):
            if optimizer.probes_needed:
                optimizer.probe([lambda step=step, rank=rank: model(own(step, rank)) for rank in range(4)])
            for n, p in by_name(optimizer):
                p.grad = given[n].clone()
            slopes.append(optimizer.slopes)
            optimizer.step()
            optimizer.zero_grad()
    return optimizer, slopes


def far(x, y, before):
    """The largest difference over the largest change."""
    return max(((x[n] - y[n]).abs().max() / (x[n] - before[n]).abs().max().clamp(min=1e-9)).item() for n in x)


@pytest.mark.parametrize("name", CELLS)
def test_replicas_of_shards_train_as_one_process_by_the_mean_of_all_four(name, found):
    _, ranks = found
    (got, grads, slopes, state), *others = [each[name] for each in ranks]
    for other, *_ in others:
        assert all(x.equal(other[n]) for n, x in got.items())
    model, before = Loss(), weights(Loss())
    for rank in range(4):
        (model(own(0, rank)) / 4).backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(grads[0][n], p.grad, rtol=1e-4, atol=1e-7)
    model = Loss()
    optimizer, expected = alone(CELLS[name], grads, model)
    assert expected == slopes
    assert far(weights(model), got, before) <= BOUND.get(name, 0)
    for n, x in kept(model, optimizer).items():
        torch.testing.assert_close(torch.as_tensor(state[n]), torch.as_tensor(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SAVED)
def test_one_process_goes_on_from_the_checkpoint_of_a_mesh(name, found, tmp_path):
    folder, ranks = found
    got, grads, _, _ = ranks[0][name]
    model = Loss()
    with patch.object(Native, "fits", lambda self, task: False):
        optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, **CELLS[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(model, optimizer, f"{folder}/{name}/1")
        assert all(x.equal(got[n]) for n, x in weights(model).items())
        alone(CELLS[name], grads, model, optimizer)
    other = Loss()
    alone(CELLS[name], [*grads, *grads], other)
    assert far(weights(other), weights(model), weights(Loss())) <= BOUND.get(name, 0) * 2


def load(model, optimizer, folder):
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, state = get_state_dict(model, optimizer)
    checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


# ---- two models, each of two ranks


def pairs(folder):
    """Ranks 0 and 1 train and save one model, ranks 2 and 3 another, by other policies and for more steps."""
    pair, out = distributed.get_rank() // 2, {}
    flat, deep = grid(2, 2)["shards"], grid(2, 2, 1)["replicas", "shards"]
    for name, mesh, options in (
        ("rounds", flat, ({"policy": "adafactor"}, {"policy": "muon"})),
        ("deep", deep, ({"policy": "muon"}, {"policy": "adafactor"})),
        ("windows", flat, ADAFRUGAL),
        ("probes", deep, ({"policy": "mezo"}, {"policy": "fzoo"})),
    ):
        model = sharded(hybridopt.wrap(Loss(), **options[pair]), mesh=mesh)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = model.hybrid.optimizer(lr=0.05, clip=1.0 if name == "rounds" else None)
            out[name] = run(model, optimizer, 2 + 2 * pair)
        model.hybrid.save_pretrained(f"{folder}/{name}{pair}")
    return out


ADAFRUGAL = ({"policy": "adafrugal", "update_gap": 1}, {"policy": "adafrugal", "update_gap": 1, "seed": 3})


def run(model, optimizer, steps, called=None):
    for step in range(steps):
        if not optimizer.gradients_needed:
            optimizer.step(lambda step=step: (called or model)(own(step)))
            continue
        if optimizer.probes_needed:
            optimizer.probe(lambda step=step: (called or model)(own(step)))
        loss = (called or model)(own(step))
        optimizer.observe(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    begins = optimizer.state_dict().get("windows", {}).get("begins")
    return weights(model), begins


def test_models_of_two_ranks_each_are_trained_and_saved_side_by_side(four, tmp_path):
    ranks = four.run(pairs, str(tmp_path))
    for a, b in (ranks[:2], ranks[2:]):
        for name, (got, begins) in a.items():
            other, also = b[name]
            assert all(x.equal(other[n]) for n, x in got.items()) and begins == also
    for pair in (0, 1):
        for name, (got, _) in ranks[2 * pair].items():
            model = hybridopt.from_pretrained(Loss(), tmp_path / f"{name}{pair}")
            assert all(x.equal(got[n]) for n, x in weights(model).items()), name
    assert (tmp_path / "probes0" / REPLAY).exists() and (tmp_path / "rounds0" / DELTA).exists()


def replicated():
    """Two DDP models of two ranks each, one with more steps; and two without DDP, by groups that are named."""
    from torch.nn.parallel import DistributedDataParallel

    pair, out = distributed.get_rank() // 2, {}
    group = grid(2, 2)["shards"].get_group()
    cells = {
        "adafrugal": ADAFRUGAL,
        "addax": ({"policy": "addax"}, {"policy": "addax", "seed": 3}),
        "addax-late": ({"policy": "addax"}, {"policy": "addax", "seed": 3}),
        "mezo": ({"policy": "mezo"}, {"policy": "fzoo"}),
    }
    for name, options in cells.items():
        model = Loss()
        how = {"module": model, **options[pair]} | ({"process_group": group} if name == "mezo" else {})
        called = None if name in ("mezo", "addax-late") else DistributedDataParallel(model, process_group=group)
        optimizer = HybridOptimizer(model.named_parameters(), 0.05, **how)
        called = DistributedDataParallel(model, process_group=group) if name == "addax-late" else called
        if name == "mezo":
            model, optimizer = copy.deepcopy((model, optimizer)) if pair else (model, optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out[name] = run(model, optimizer, 2 + 2 * pair, called)
    return out


def test_replicas_of_two_ranks_each_go_by_their_own_losses(four):
    ranks = four.run(replicated)
    for a, b in (ranks[:2], ranks[2:]):
        for name, (got, begins) in a.items():
            other, also = b[name]
            assert all(x.equal(other[n]) for n, x in got.items()) and begins == also
    assert ranks[0]["adafrugal"][1]
    assert not any(x.equal(ranks[2]["mezo"][0][n]) for n, x in ranks[0]["mezo"][0].items())


def named():
    """A group that lacks this rank, or one that has shards, is refused before anything is trained."""
    from torch.distributed.device_mesh import init_device_mesh

    rank, texts = distributed.get_rank(), []
    mesh = grid(2, 2)
    first, everyone = distributed.new_group([0]), distributed.new_group([0, 1, 2, 3])
    if rank:
        with pytest.raises(HybridOptError) as error:
            HybridOptimizer(Loss().named_parameters(), 0.05, process_group=first)
        texts.append(str(error.value))
    model = sharded(Loss(), mesh=mesh)
    optimizer = HybridOptimizer(model.named_parameters(), 0.05, process_group=mesh["shards"].get_group())
    before = weights(model)
    with pytest.raises(HybridOptError) as error:
        trained(model, {}, 1, optimizer=optimizer)
    assert all(x.equal(before[n]) for n, x in weights(model).items())
    texts.append(str(error.value))
    model = sharded(Loss(), mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("models", "shards"))["shards"])
    seeds = {"policy": "mezo", "seed": rank // 2, "process_group": everyone}
    with pytest.raises(HybridOptError) as error:
        probed(model, seeds, 1)
    texts.append(str(error.value))
    return texts


def test_groups_that_leave_out_ranks_are_refused(four):
    found = four.run(named)
    for rank, texts in enumerate(found):
        if rank:
            assert f"process_group has no place for this process, rank {rank}" in texts[0]
        pair = [2 * (rank // 2), 2 * (rank // 2) + 1]
        assert f"process_group has ranks {pair}, and the model is trained on rank" in texts[-2]
        assert "seed of parameter 'embed.weight' is 0 on rank 0 and 1 on rank 2" in texts[-1]
