"""Policy JSON from a stranger: refused as HybridOptError, and never a way to code."""

import json
import sys

import pytest

from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.core.registry import names, unpack
from hybridopt.policy.methods.frugal import Frugal

GOOD = json.loads(Policy(Frugal(density=0.5, split="block").routes).to_json())
HOSTILE = [
    *"os.system builtins.eval rules rules. .adamw rules.adamw.AdamW rules..adamw".split(),
    *"rules./etc/passwd rules._share splits._lines rules.__init__ codecs.../rules.adamw find.build".split(),
    *(
        "errors.HybridOptError",
        "torch.optim",
        "policies.fruga",
        "splits.row",
        "rules.adamw\0",
        "rules.ADAMW",
        "",
        None,
        3,
        True,
        [],
        {},
    ),
]


def spoiled(change):
    """The good policy after a change, as JSON text."""
    data = json.loads(json.dumps(GOOD))
    change(data)
    return json.dumps(data)


def first_use(data):
    return next(r["use"] for r in data["routes"] if r["use"])


def split_use(data):
    return next(r["use"] for r in data["routes"] if r["use"] and r["use"]["split"]["part"] == "splits.block")


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_part_never_names_code(value):
    before = set(sys.modules)
    text = spoiled(lambda d: first_use(d).update(full={"part": value}))
    with pytest.raises(HybridOptError) as caught:
        Policy.from_json(text)
    assert any(repr(piece) in str(caught.value) for piece in (value, str(value).partition(".")[2]))
    assert {m for m in set(sys.modules) - before if not m.startswith("hybridopt.")} == set()


SPOILED = {
    "no object": ("[1]", ["object"]),
    "no JSON": ("{", ["valid JSON"]),
    "NaN": (spoiled(lambda d: split_use(d)["split"].update(density=0.123)).replace("0.123", "NaN"), ["nan"]),
    "infinity": (spoiled(lambda d: first_use(d).update(lr_scale=0.123)).replace("0.123", "1e999"), ["inf"]),
    "a key twice": ('{"format": 1, "format": 1, "routes": []}', ["'format'", "twice"]),
    "a newer version": (spoiled(lambda d: d.update(format=2)), ["format=2", "format 1"]),
    "a version as text": (spoiled(lambda d: d.update(format="1")), ["'format'", "whole number"]),
    "a version as bool": (spoiled(lambda d: d.update(format=True)), ["'format'", "whole number"]),
    "no version": (spoiled(lambda d: d.pop("format")), ["'format'", "missing"]),
    "no routes": (spoiled(lambda d: d.pop("routes")), ["'routes'", "missing"]),
    "empty routes": (spoiled(lambda d: d.update(routes=[])), ["routes", "at least one"]),
    "routes as object": (spoiled(lambda d: d.update(routes={})), ["'routes'", "array"]),
    "an unknown key": (spoiled(lambda d: d.update(code="x")), ["'code'", "format"]),
    "a route that is none": (spoiled(lambda d: d["routes"].insert(0, 3)), ["3", "route"]),
    "an unknown key of a route": (spoiled(lambda d: d["routes"][0].update(rol="*")), ["rol", "did you mean 'role'"]),
    "a role as number": (spoiled(lambda d: d["routes"][0].update(role=1)), ["'role'", "string"]),
    "an unknown role": (spoiled(lambda d: d["routes"][0].update(role="layer")), ["role='layer'", "linear"]),
    "a name as list": (spoiled(lambda d: d["routes"][0].update(name=["a"])), ["'name'", "string"]),
    "no use": (spoiled(lambda d: d["routes"][0].pop("use")), ["'use'", "missing"]),
    "a use as text": (spoiled(lambda d: d["routes"][0].update(use="full")), ["'use'", "object or null"]),
    "an unknown field": (spoiled(lambda d: first_use(d).update(lr=1)), ["'lr'", "lr_scale"]),
    "an unknown option": (spoiled(lambda d: split_use(d)["split"].update(rate=1)), ["'rate'", "density"]),
    "density as text": (spoiled(lambda d: split_use(d)["split"].update(density="1")), ["density='1'"]),
    "density as bool": (spoiled(lambda d: split_use(d)["split"].update(density=True)), ["density=True"]),
    "density as a rule": (
        spoiled(lambda d: split_use(d)["split"].update(density={"part": "rules.adamw"})), ["density", "AdamW"]
    ),
    "gap as fraction": (spoiled(lambda d: split_use(d)["split"].update(update_gap=1.5)), ["update_gap=1.5"]),
    "a rule as text": (spoiled(lambda d: first_use(d).update(full="adamw")), ["full='adamw'"]),
    "no rule": (spoiled(lambda d: first_use(d).update(full=None)), ["full=None"]),
    "no split": (spoiled(lambda d: first_use(d).update(split=None)), ["split=None"]),
    "a list as codec": (spoiled(lambda d: first_use(d).update(codec=[])), ["codec=()"]),
    "a split as rule": (spoiled(lambda d: first_use(d).update(full={"part": "splits.rows"})), ["full=Rows"]),
    "betas of one": (spoiled(lambda d: first_use(d)["full"].update(betas=[0.9])), ["betas"]),
    "betas as object": (spoiled(lambda d: first_use(d)["full"].update(betas={"a": 1})), ["part"]),
    "decay as text": (spoiled(lambda d: first_use(d).update(weight_decay="0")), ["weight_decay='0'"]),
    "reset as number": (spoiled(lambda d: first_use(d).update(reset=1)), ["reset=1"]),
    "something custom": (spoiled(lambda d: first_use(d).update(full={"custom": "Mine"})), ["'Mine'", "in code"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_policies(name):
    text, words = SPOILED[name]
    with pytest.raises(HybridOptError) as caught:
        Policy.from_json(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_unspoiled_one_is_read():
    assert Policy.from_json(json.dumps(GOOD)).routes == Frugal(density=0.5, split="block").routes


def test_own_parts_are_written_by_name_only_and_cannot_be_read():
    def density(step):
        return 0.5

    text = Policy(
        (
            Route(
                Treatment(split=unpack({"part": "splits.rows"}).__class__(density)),
            ),
        )
    ).to_json()
    assert '"custom": "function density"' in text
    with pytest.raises(HybridOptError, match="function density.*pass it again in code"):
        Policy.from_json(text)


def test_names_are_files_of_the_package_only():
    for kind in ("rules", "splits"):
        assert all(name.isidentifier() and not name.startswith("_") for name in names(kind))
    with pytest.raises(HybridOptError, match="kind='integrations'"):
        names("integrations")
