"""Every part and every policy that the registry finds subclasses its contract, and has nothing that others could ask
for and no contract declares."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from hybridopt.core.contracts import Codec, Draw, GapSchedule, Noise, Part, Ready, Rule, Schedule, Source, Split, Store
from hybridopt.core.contracts.check import missing
from hybridopt.core.numerics.directions import Direction
from hybridopt.core.registry import find, names
from hybridopt.parts.splits._int4 import Int4Basis
from hybridopt.parts.splits._lazy import Lazy
from hybridopt.policy.methods._options import FreePlaces, NamedPolicy, Places
from support.contracts import declared
from support.parts import MATRIX_ONLY, POLICIES, RULES, SOURCES, SPLITS, draw, split_of

KINDS = {
    "rules": Rule,
    "splits": Split,
    "sources": Source,
    "schedules": Schedule,
    "gaps": GapSchedule,
    "codecs": Codec,
    "stores": Store,
    "policies": Ready,
}
CLASSES = [(kind, name) for kind in KINDS for name in names(kind)]
ALSO = {"whole": Part, "empty": Part}  # splits that are their own part
SHARED = {"make_routes", "roles", "placed"}  # what policies have for each other
PLACES = ["embeddings", "norms", "biases", "head", "adapters"]


def public(cls):
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_a_part_subclasses_its_contract(kind, name):
    cls = find(kind, name)
    assert KINDS[kind] in cls.__mro__ and ALSO.get(name, object) in cls.__mro__
    assert is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert missing(cls(), KINDS[kind]) == []


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_a_part_has_nothing_that_no_contract_declares(kind, name):
    cls, known = find(kind, name), declared(KINDS[kind]) | declared(ALSO.get(name, KINDS[kind]))
    options = {f.name for f in fields(cls)}
    assert public(cls) - options <= known | (SHARED if kind == "policies" else set())


@pytest.mark.parametrize("name", SPLITS)
def test_the_part_in_force_subclasses_its_contract(name):
    for shape in ((6, 8), (8, 6), (2, 6, 4), (7,)):
        if len(shape) > 1 or name not in MATRIX_ONLY:
            check_part_in_force(split_of(name, 0.5).at(draw(), shape), shape)


@pytest.mark.parametrize("options", [{"bits": 4}, {"threshold": 0.4}, {"bits": 4, "threshold": 0.4}], ids=str)
def test_a_wrapped_projection_subclasses_its_contract(options):
    part = SPLITS["svd"](0.5, **options).at(draw(), (6, 8))
    assert isinstance(part, Int4Basis | Lazy) and part.by_gradient
    plain = SPLITS["svd"](0.5).at(draw(), (6, 8)).projection()
    plain = replace(plain, ordered="threshold" in options)
    assert part.projection() == (Int4Basis(plain) if "bits" in options else plain)
    check_part_in_force(part, (6, 8))


def check_part_in_force(part, shape):
    assert Part in type(part).__mro__ and missing(part, Part) == []
    options = {f.name for f in fields(part)}
    assert public(type(part)) - options <= declared(Part) | (declared(Split) if Split in type(part).__mro__ else set())
    assert set(part.sizes) <= options
    assert part.empty == (part.shape(shape) is None)
    assert not part.covers or part.shape(shape) == shape
    beneath = part.projection()
    assert beneath is None or set(beneath.slots(shape)) <= set(part.slots(shape))  # the planner runs its `sample`


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_looks_says_what_it_looks_at(name):
    cls, rule = RULES[name], RULES[name]()
    assert not rule.local or rule.looks == 0
    assert ({"look", "settle"} <= set(vars(cls))) == bool(rule.looks)
    assert not rule.idle or rule.update(torch.ones(3), {}, None, {}).eq(0).all()


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_says_whether_its_density_is_constant(name):
    split = split_of(name, 0.25)
    assert split.constant() == {"whole": 1, "empty": 0}.get(name, 0.25)
    assert split.by_turns == (name == "block") and split.spread == (name in ("svd", "random"))
    if name not in ("whole", "empty"):
        assert split_of(name, lambda step: 0.5).constant() is None


@pytest.mark.parametrize("name", SOURCES)
def test_a_direction_fulfils_its_contract(name):
    source = SOURCES[name]()
    for shape in ((40, 30), (7,), (0,)):
        at = Draw(0, "other", 0, 3)
        basis = {k: torch.zeros(slot.shape) for k, slot in source.slots(shape).items()}
        source.sample(basis, at)
        noise = source.noise(at, shape, 0, basis)
        assert noise is None if source.scheme is None else missing(noise, Noise) == []
        drawn = noise and noise.drawn(torch.Size(shape).numel())
        if drawn is not None:
            direction, count = drawn
            assert isinstance(direction, Direction) and count > 0 and direction.kind == source.kind


@pytest.mark.parametrize("name", POLICIES)
def test_what_policies_share_are_their_last_options(name):
    cls = POLICIES[name]
    options = [f.name for f in fields(cls)]
    assert NamedPolicy in cls.__mro__ and cls().options() == tuple(options)
    above = cls.__base__
    own = options[len(fields(above)) :] if is_dataclass(above) else []  # a policy made of another has its own at last
    shared = options[: len(options) - len(own)]
    assert shared[-1] == "embeddings_lr_scale" and (shared[-6:-1] == PLACES) == (Places in cls.__mro__)
    assert Places in cls.__mro__ or not {"norms", "biases", "adapters"} & set(options)
    if FreePlaces in cls.__mro__:
        assert cls().roles() == dict.fromkeys(("embedding", "norm", "bias", "head", "adapter"), "free")
    if Places in cls.__mro__:
        values = [getattr(cls(), option) for option in options]
        assert cls(*values) == cls(**dict(zip(options, values, strict=True))) == cls()
