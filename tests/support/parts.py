"""Every part of the package, found by name, and what the conformance tests share about them."""

from dataclasses import fields

from hybridopt.core.contracts import Draw, Population
from hybridopt.core.registry import find, names

SHAPES = [(7,), (1,), (5, 9), (9, 5), (1, 6), (6, 1), (3, 4, 6), (2, 6, 4)]
DENSITIES = [0, 1e-9, 0.25, 0.5, 0.99, 1]
RULES = {name: find("rules", name) for name in names("rules")}
SPLITS = {name: find("splits", name) for name in names("splits")}
CODECS = {name: find("codecs", name) for name in names("codecs")}
STORES = {name: find("stores", name) for name in names("stores")}
SOURCES = {name: find("sources", name) for name in names("sources")}
SCHEDULES = {name: find("schedules", name) for name in names("schedules")}
POLICIES = {name: find("policies", name) for name in names("policies")}
MATRIX_ONLY = ("svd", "random")


def has(cls, option):
    """Does this part have an option of this name?"""
    return option in {f.name for f in fields(cls)}


def split_of(name, density, gap=2):
    """A split with this density and window, where it has them."""
    options = {"density": density, "update_gap": gap}
    return SPLITS[name](
        **{k: v for k, v in options.items() if has(SPLITS[name], k) and name not in ("whole", "empty")}
    )


def draw(window=0, name="w", seed=0, gap=2, members=(("w", 20), ("x", 20), ("y", 20), ("z", 20))):
    """The random choices of one parameter in one window."""
    return Draw(seed, name, window, window * gap, Population(tuple(members)))
