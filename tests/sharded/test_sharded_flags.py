"""Fused updates of shards under flags on the device: those of rows, in rounds, and of whole matrices by one rank."""

import warnings
from unittest.mock import patch

import pytest
import torch

from hybridopt import HybridOptimizer
from hybridopt.optimizer.releases import fused
from support.sharding import Odd, give, kept, place, sharded, weights

BAD = "layers.1.weight"
POLICIES = {
    "by rows": {"policy": "adamw"},
    "in rounds": {"policy": "adalomo"},
    "by one rank": {"policy": "muon"},
    "in a subspace": {"policy": "galore", "density": 0.5, "update_gap": 2, "spread": False},
}


def trained(waits, bad_at):
    """What every step leaves, of all policies in turn, where the host would wait for a flag or not."""
    found = {}
    for name, options in POLICIES.items():
        model = sharded(Odd())
        optimizer = HybridOptimizer(
            model.named_parameters(), 0.05, release="fused", nonfinite="skip", compile=False, module=model, **options
        )
        for step in range(4):
            give(model, step)
            for one, p in reversed(list(model.named_parameters())):
                if one == BAD and step in bad_at:  # the entry is another rank's, or one's own
                    p.grad = place(torch.full(p.shape, 1.0).index_fill_(0, torch.tensor(0), torch.nan), p)
                with patch.object(fused, "reading_waits", lambda device: waits), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    optimizer.gradient_ready(one, p)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step()
            found[name, step] = weights(model), kept(model, optimizer)
    return found


def compared(bad_at):
    """By policy and step: is everything as without flags? And is the weight as before where its gradient was bad?"""
    flagged, read = (trained(waits, bad_at) for waits in (True, False))
    equal = {
        at: all(torch.equal(flagged[at][0][n], x) for n, x in read[at][0].items())
        and all(torch.equal(torch.as_tensor(flagged[at][1][k]), torch.as_tensor(x)) for k, x in read[at][1].items())
        for at in read
    }
    left = {
        (name, step): torch.equal(flagged[name, step][0][BAD], flagged[name, step - 1][0][BAD])
        for name, step in flagged
        if step
    }
    return equal, left


@pytest.mark.parametrize("bad_at", [(2,), (0, 2)])
def test_a_flag_does_what_reading_it_would(bad_at, two):
    for equal, left in two.run(compared, bad_at):
        assert all(equal.values()), [at for at, same in equal.items() if not same]
        assert left == {(name, step): step in bad_at for name in POLICIES for step in (1, 2, 3)}
