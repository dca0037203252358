"""SubZero's directions of low rank and LeZO's few layers."""

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt.core.contracts import Draw, Population
from hybridopt.execution.state import allocate
from hybridopt.parts.sources.lezo import LeZO
from hybridopt.parts.sources.subzero import SubZero
from support.probing import loss_of, weights


def low_rank(source, shape, window=0, step=0):
    basis = {k: allocate(slot, torch.device("cpu")) for k, slot in source.slots(shape).items()}
    at = Draw(0, "w", window, step)
    source.sample(basis, at)
    return basis, source.noise(at, shape, 0, basis)


def whole(noise, shape):
    count = torch.Size(shape).numel()
    return noise.values(0, count, torch.device("cpu")).view(shape)


def test_bases_are_orthonormal_and_directions_have_their_rank_and_length():
    source = SubZero(rank=4)
    basis, noise = low_rank(source, (40, 30))
    for q in basis.values():
        torch.testing.assert_close(q.T @ q, torch.eye(4), rtol=1e-5, atol=1e-5)
    z = whole(noise, (40, 30))
    assert torch.linalg.matrix_rank(z) == 4
    torch.testing.assert_close(basis["u"] @ (basis["u"].T @ z), z, rtol=1e-4, atol=1e-4)
    lengths = [whole(low_rank(source, (40, 30), step=s)[1], (40, 30)).square().mean().item() for s in range(60)]
    assert sum(lengths) / 60 == pytest.approx(1, abs=0.15)  # as long as MeZO's


@pytest.mark.parametrize(("start", "count"), [(0, 1), (7, 100), (29, 31), (1199, 1), (30, 60)])
def test_any_slice_is_that_of_the_whole(start, count):
    noise = low_rank(SubZero(rank=4), (40, 30))[1]
    expected = whole(noise, (40, 30)).flatten()[start : start + count]
    torch.testing.assert_close(noise.values(start, count, torch.device("cpu")), expected, rtol=1e-5, atol=1e-6)


def test_subspaces_stay_for_a_window_and_differ_between_windows():
    source = SubZero(rank=4, update_gap=3)
    one, again, other = (low_rank(source, (40, 30), window)[0]["u"] for window in (0, 0, 1))
    assert one.equal(again)
    assert not one.equal(other)


def test_narrow_matrices_are_seen_as_nearly_square():
    assert {k: s.shape for k, s in SubZero(rank=24).slots((8, 4096)).items()} == {"u": (256, 24), "v": (128, 24)}
    assert {k: s.shape for k, s in SubZero(rank=24).slots((512, 96)).items()} == {"u": (512, 24), "v": (96, 24)}
    assert SubZero().slots((7,)) == {}
    assert {k: s.shape for k, s in SubZero(rank=4).slots((1, 7)).items()} == {"u": (7, 1), "v": (1, 1)}


def test_updates_stay_in_the_subspace_and_the_plan_knows_its_bytes():
    torch.manual_seed(0)
    model = hybridopt.wrap(
        nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 4)), policy="subzero", rank=2
    )
    optimizer = model.hybrid.optimizer(lr=1e-2)
    before = weights(model)
    for _ in range(5):
        optimizer.step(lambda: loss_of(model))
    assert torch.linalg.matrix_rank(model[2].weight - before["2.weight"], rtol=1e-3) == 2
    bases = optimizer._parameters.shifts.noises._bases
    kept = sum(x.nbytes for _, basis in bases.values() for x in basis.values())
    assert kept == model.hybrid.report().totals.state_bytes > 0


class Stack(nn.Module):
    """Blocks, and something outside of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(8))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x


def test_lezo_moves_a_share_of_the_layers_and_gives_every_layer_its_turn():
    model = hybridopt.wrap(Stack(), policy="lezo", density=0.25)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    turns = []
    for _ in range(8):
        before = weights(model)
        optimizer.step(lambda: loss_of(model))
        changed = {n for n, p in model.named_parameters() if not p.equal(before[n])}
        assert {"first.weight", "first.bias"} <= changed
        layers = {n.split(".")[1] for n in changed if n.startswith("blocks")}
        assert changed >= {f"blocks.{i}.{k}.{w}" for i in layers for k in (0, 2) for w in ("weight", "bias")}
        turns.append(layers)
    assert all(len(layers) == 2 for layers in turns)
    assert all(set.union(*turns[i : i + 4]) == set("01234567") for i in (0, 4))
    assert turns[:4] != turns[4:]


def test_lezo_moves_at_least_one_layer_and_what_has_none_always():
    source, members = LeZO(density=1e-6), Population((("a.0.w", 4), ("a.1.w", 4), ("b", 4)))
    for step in range(6):
        found = [n for n, _ in members.members if source.noise(Draw(0, n, 0, step, members), (4,), 0, {}) is not None]
        assert len(found) == 2
        assert "b" in found


def test_lezo_has_its_turns_by_step_and_seed_alone():
    members = Population(tuple((f"a.{i}.w", 4) for i in range(8)))

    def at(seed, step):
        draws = {n: Draw(seed, n, 0, step, members) for n, _ in members.members}
        return {n for n, draw in draws.items() if LeZO().noise(draw, (4,), 0, {})}

    assert at(0, 3) == at(0, 3)
    assert len({frozenset(at(seed, 0)) for seed in range(20)}) > 5
