"""Every release that the package has, held to its contract; and nobody else knows releases by name."""

import ast

import pytest
import torch

from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.core import registry
from hybridopt.core.contracts import Release
from hybridopt.core.contracts.fulfilment import lacking
from hybridopt.core.registry import find, names
from hybridopt.optimizer.gradients.clip import Clip
from hybridopt.optimizer.releases import DEFAULT, release_class
from support.contracts import declared
from support.paths import ROOT

RELEASES = names("releases")


def network():
    random = torch.Generator().manual_seed(0)
    layers = {n: torch.nn.Parameter(torch.randn(6, 6, generator=random)) for n in ("a.weight", "b.weight")}
    return layers, torch.randn(4, 6, generator=random)


def trained(release, steps=3, **options):
    """Weights after some steps, and whether gradients were still there before each `step()`."""
    layers, x = network()
    optimizer = HybridOptimizer(layers.items(), lr=0.1, policy="adamw", release=release, **options)
    kept = []
    for _ in range(steps):
        (torch.tanh(x @ layers["a.weight"]) @ layers["b.weight"]).square().mean().backward()
        kept.append([p.grad is not None for p in layers.values()])
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in layers.values()], kept, optimizer


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_called_as_its_file_and_is_complete(name):
    made = find("releases", name)
    assert made.name == name and isinstance(made.frees_gradients, bool)
    assert Release in made.__mro__ and lacking(made, Release) == []
    assert {"hold", "hooks", "gradient_ready", "measure", "finish", "drop", "midway"} <= declared(Release)


@pytest.mark.parametrize("name", RELEASES)
def test_every_release_gives_the_same_weights_and_keeps_gradients_as_it_says(name):
    weights, kept, optimizer = trained(name)
    wanted, _, _ = trained(DEFAULT)
    assert all(torch.equal(one, other) for one, other in zip(weights, wanted, strict=True))
    assert kept == 3 * [2 * [not release_class(name).frees_gradients]]
    assert optimizer._step_supports_amp_scaling == release_class(name).frees_gradients


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_midway_only_while_some_parameters_were_updated(name):
    layers, x = network()
    optimizer = HybridOptimizer(layers.items(), lr=0.1, policy="adamw", release=name)
    before = [p.detach().clone() for p in layers.values()]
    with optimizer.hold():
        (x @ layers["a.weight"] @ layers["b.weight"]).sum().backward()
    assert not optimizer._release.midway and all(p.grad is not None for p in layers.values())
    assert all(torch.equal(p, old) for p, old in zip(layers.values(), before, strict=True))
    optimizer.zero_grad()
    (x @ layers["a.weight"] @ layers["b.weight"]).sum().backward()
    moved = any(not torch.equal(p, old) for p, old in zip(layers.values(), before, strict=True))
    assert optimizer._release.midway == moved == release_class(name).frees_gradients
    optimizer._release.drop()
    assert not optimizer._release.midway


def test_an_unknown_release_lists_the_known_ones():
    layers, _ = network()
    for act in (
        lambda: HybridOptimizer(layers.items(), release="fuse"),
        lambda: release_class("fuse"),
        lambda: release_class(3),
    ):
        with pytest.raises(HybridOptError, match=r"release=.* is not known; .*Known: " + ", ".join(RELEASES)):
            act()
    assert release_class(None).name == DEFAULT


def test_a_release_that_lacks_something_is_refused_by_name(monkeypatch):
    class Half(Release):
        name = "fused"

        def hold(self):
            return None

    monkeypatch.setattr("hybridopt.optimizer.releases.fused.__all__", ["Half"])
    monkeypatch.setattr("hybridopt.optimizer.releases.fused.Half", Half, raising=False)
    layers, _ = network()
    with pytest.raises(HybridOptError, match="Half is no Release: it lacks frees_gradients, hooks, check, gradient"):
        HybridOptimizer(layers.items(), release="fused")


def test_releases_are_no_parts_of_saved_policies():
    with pytest.raises(HybridOptError, match="'releases.fused' is no part"):
        registry.unpack({"part": "releases.fused"})
    assert "custom" in registry.pack(find("releases", "accumulate")(Clip()))


@pytest.mark.parametrize("room", ["hybridopt", "integrations"])
def test_nobody_compares_names_of_releases(room):
    for file in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not constants & set(RELEASES), f"{file}:{node.lineno} compares the name of a release"
