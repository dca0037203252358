"""Every rule with every split, every codec and every store, on three ranks and in one process."""

import itertools
import os
from unittest.mock import patch

import pytest
import torch

from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.execution.backends.native import Native
from hybridopt.parts.codecs.bf16 import Bf16
from hybridopt.parts.codecs.companded8 import Companded8
from hybridopt.parts.codecs.fp32 import Fp32
from hybridopt.parts.codecs.int8 import Int8
from hybridopt.parts.stores.bf16_split import Bf16Split
from hybridopt.parts.stores.bf16_stochastic import Bf16Stochastic
from hybridopt.parts.stores.dense import Dense
from support.parts import RULES, SPLITS, split_of
from support.ranks import Ranks
from support.sharding import Odd, kept, sharded, trained, weights

pytestmark = pytest.mark.slow

MATRICES = "embed.weight|layers.*.weight|wide.weight|conv.weight|down.weight"
BOUND = 3e-5  # of the largest change, where sums are added up in another order
FULL = [name for name in RULES if name != "no_update"]
CODECS = {"fp32": Fp32(), "bf16": Bf16(), "int8": Int8(16, 0), "companded8": Companded8(16, 40)}
STORES = {"dense": Dense(), "stochastic": Bf16Stochastic(), "split": Bf16Split()}
ALL = list(itertools.product(FULL, SPLITS, CODECS, STORES))
SOME = ALL[:: 1 if os.environ.get("WHOLE_GRID") else 43]  # prime to every axis, so that all values meet
CELLS = {"-".join(cell): cell for cell in SOME}


def trained_by(cell, ranks):
    rule, split, codec, store = cell
    free = RULES["normalized_sgd" if rule == "adafactor" else "signsgd"]()
    treatment = {"full": RULES[rule](), "free": free, "split": split_of(split, 0.4), "codec": CODECS[codec]}
    model = Odd(torch.float32 if store == "dense" else torch.bfloat16)
    model = sharded(model) if ranks else model
    try:
        policy = Policy((Route(Treatment(store=STORES[store], **treatment), name=MATRICES), Route(Treatment())))
        optimizer = trained(model, {"policy": policy}, steps=3)
    except HybridOptError as error:
        return str(error)
    return weights(model), kept(model, optimizer)


def all_of(cells, ranks):
    with patch.object(Native, "fits", lambda self, task: False):
        return {name: trained_by(cell, ranks) for name, cell in cells.items()}


@pytest.fixture(scope="module")
def found():
    ranks = Ranks(3)
    yield ranks.run(all_of, CELLS, True)
    ranks.close()


@pytest.fixture(scope="module")
def alone():
    return all_of(CELLS, False)


@pytest.mark.parametrize("name", CELLS)
def test_what_is_trained_and_kept(name, found, alone):
    expected, others = alone[name], [some[name] for some in found]
    if isinstance(expected, str):
        assert others == [expected] * 3
        return
    exact = RULES[CELLS[name][0]].local or RULES[CELLS[name][0]].looks is None or CELLS[name][1] in ("rows", "randk")
    before = weights(Odd())
    for (ours, state), (mine, own) in ((expected, other) for other in others):
        for n, x in ours.items():
            room = 0 if exact else BOUND * (x - before[n]).abs().max() + (0.01 if x.dtype == torch.bfloat16 else 0)
            assert (x.double() - mine[n].double()).abs().max() <= room, n
        assert state.keys() == own.keys()
        for n, x in state.items():
            same = x.equal(own[n]) if isinstance(x, torch.Tensor) else x == own[n]
            assert same or not exact, n
