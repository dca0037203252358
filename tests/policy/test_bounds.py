"""No policy asks for more directions, blocks or iterations than any machine could take: that is refused at once."""

import pytest

from hybridopt import HybridOptError
from hybridopt.core.registry import unpack
from hybridopt.policy.routes import Route, read_policy

HUGE = 10**12
BOUNDS = {
    "samples of mezo": ("mezo", {"samples": HUGE}),
    "samples of fzoo": ("fzoo", {"samples": HUGE}),
    "samples of subzero": ("subzero", {"samples": HUGE}),
    "samples of lezo": ("lezo", {"samples": HUGE}),
    "samples of addax": ("addax", {"samples": HUGE}),
    "pool": ("mezo", {"pool": HUGE}),
    "rank of subzero": ("subzero", {"rank": HUGE}),
    "rank of apollo": ("apollo", {"rank": HUGE}),
    "blocks of badam": ("badam", {"blocks": HUGE}),
    "update_gap": ("frugal", {"update_gap": HUGE}),
    "block of int8": ("frugal", {"codec": {"part": "codecs.int8", "block": HUGE}}),
    "ns_steps": ("muon", {"ns_steps": HUGE}),
    "rounds": ("sinkgd", {"rounds": HUGE}),
    "heads": ("adam_mini", {"heads": HUGE}),
    "more digits than are written": ("mezo", {"samples": 10**5000}),
    "a rate beyond all floats": ("mezo", {"eps": 10**400}),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_huge_numbers_are_refused(name):
    policy, options = BOUNDS[name]
    with pytest.raises(HybridOptError, match="at most|give a number in"):
        read_policy(policy, options)
    if isinstance(next(iter(options.values())), int):
        with pytest.raises(HybridOptError, match="at most|give a number in"):
            unpack({"part": f"policies.{policy}"} | options, "policies")


@pytest.mark.parametrize("options", [{"samples": 2**16}, {"pool": 2**32}, {"pool": 4096}])
def test_the_largest_numbers_are_taken(options):
    read_policy("mezo", options)


def test_patterns_of_routes_have_an_end():
    with pytest.raises(HybridOptError, match="up to 100000 characters"):
        Route(None, name="|".join(map(str, range(30_000))))
    with pytest.raises(HybridOptError, match="is not allowed; give patterns as text"):
        Route(None, name=10**5000)
