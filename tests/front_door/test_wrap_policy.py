"""Policies through `wrap`: densities by schedule, own routes from memory and from a file."""

import pytest

import hybridopt
from hybridopt import Policy, Route, Treatment
from hybridopt.parts.schedules.linear import Linear
from hybridopt.parts.schedules.steps import Steps
from hybridopt.parts.splits.columns import Columns
from support.models import batch, tiny_llama
from support.saved import bits, different, equal, train


@pytest.mark.parametrize("density", [Linear(0.5, 0.1, 10), Steps((0.5, 0.25), (4,))])
def test_density_by_schedule(density):
    model = hybridopt.wrap(tiny_llama(), density=density, update_gap=2)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    p = model.model.layers[0].mlp.up_proj.weight
    widths = []
    for step in range(12):
        model(**batch(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        widths.append(optimizer.state[p]["exp_avg"].shape[1])
        assert widths[-1] == round(density(step // 2 * 2) * p.shape[1])
    assert len(set(widths)) > 1
    assert model.hybrid.tags["model.layers.0.mlp.up_proj.weight"] == "split"


OWN = Policy(
    (
        Route(None, role="embedding|norm"),
        Route(Treatment(), name="*.self_attn.*|lm_head.*"),
        Route(Treatment(split=Columns(0.5, 7)), role="linear"),
    )
)


def test_an_own_policy_from_memory_and_from_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(OWN.to_json())
    trained = []
    for policy in (OWN, path, str(path)):
        model = hybridopt.wrap(tiny_llama(), policy, seed=1)
        tags = model.hybrid.tags
        assert tags["model.layers.0.self_attn.q_proj.weight"] == tags["lm_head.weight"] == "state-full"
        assert tags["model.layers.1.mlp.down_proj.weight"] == "split"
        assert tags["model.embed_tokens.weight"] == tags["model.norm.weight"] == "frozen"
        train(model)
        trained.append(bits(model))
    assert equal(trained[0], trained[1]) and equal(trained[0], trained[2])
    assert set(different(trained[0], bits(tiny_llama()))) == {n for n, tag in tags.items() if tag != "frozen"}


def test_a_policy_or_seed_that_is_assigned_counts_at_once():
    model = hybridopt.wrap(tiny_llama(), policy="adamw")
    before = set(model.hybrid.tags.values())
    model.hybrid.policy = hybridopt.wrap(tiny_llama(), policy="signsgd").hybrid.policy
    assert (before, set(model.hybrid.tags.values())) == ({"state-full"}, {"state-free"})
    assert {group["tag"] for group in model.hybrid.optimizer(lr=1e-3).param_groups} == {"state-free"}
    model.hybrid.seed = 7
    assert {group["seed"] for group in model.hybrid.optimizer(lr=1e-3).param_groups} == {7}
