"""torch.distributed.checkpoint of sharded runs: 2 ranks, then 3, then one process, as if nothing had happened."""

import warnings
from unittest.mock import patch

import pytest
import torch

from hybridopt import HybridOptimizer
from hybridopt.execution.backends.native import Native
from hybridopt.parts.codecs.int8 import Int8
from support.sharding import Odd, going_on, kept, sharded, trained, weights

pytestmark = pytest.mark.slow

CELLS = {
    "adamw": {"policy": "adamw", "weight_decay": 0.1},
    "adamw-int8": {"policy": "adamw", "codec": Int8(16, 0)},
    "frugal": {"density": 0.5, "update_gap": 2},
    "randk": {"split": "randk", "density": 0.5, "update_gap": 4},
    "badam": {"policy": "badam", "update_gap": 20},
    "galore": {"policy": "galore", "density": 0.5, "update_gap": 4},
    "muon": {"policy": "muon"},
    "adam_mini": {"policy": "adam_mini"},
    "adafactor": {"policy": "adafactor"},
    "apollo": {"policy": "apollo"},
    "came": {"policy": "came"},
}
STEPS = 3  # of each part of a run
BOUND = 1e-5


def part(options, number, folder, ranks=True):
    """Load part `number` of a run, if it is not the first, train, and save; return the weights and all state."""
    model = sharded(Odd()) if ranks else Odd()
    with warnings.catch_warnings(), patch.object(Native, "fits", lambda self, task: False):
        warnings.simplefilter("ignore")
        optimizer = HybridOptimizer(model.named_parameters(), 0.05, module=model, **options)
        with going_on(model, optimizer, folder, number):
            trained(model, options, STEPS, number * STEPS, optimizer)
    return weights(model), kept(model, optimizer)


@pytest.mark.parametrize("name", CELLS)
def test_a_run_goes_on_with_other_ranks(name, two, three, tmp_path):
    options = CELLS[name]
    two.run(part, options, 0, str(tmp_path))
    three.run(part, options, 1, str(tmp_path))
    found, state = part(options, 2, str(tmp_path), ranks=False)
    model = Odd()
    with patch.object(Native, "fits", lambda self, task: False):
        optimizer = trained(model, options, 3 * STEPS)
    expected, before = kept(model, optimizer), weights(Odd())
    assert state.keys() == expected.keys()
    for n, x in weights(model).items():
        assert (x - found[n]).abs().max() <= BOUND * (x - before[n]).abs().max(), n
    for n, x in expected.items():
        torch.testing.assert_close(torch.as_tensor(state[n]), torch.as_tensor(x), rtol=1e-3, atol=1e-6)


def whole_state(options, folder):
    """A full state dict of a sharded run, and a sharded run that goes on from what one process has saved."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    model = sharded(Odd())
    optimizer = trained(model, options, 2)
    told = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = get_optimizer_state_dict(model, optimizer, options=told)
    other = sharded(Odd())
    load(other, torch.load(folder + "/weights.pt"))
    second = HybridOptimizer(other.named_parameters(), 0.05, module=other, **options)
    second.load_state_dict(torch.load(folder + "/optimizer.pt"))
    trained(other, options, 2, 2, second)
    return full, weights(other)


def load(model, values):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, values, options=StateDictOptions(full_state_dict=True))


@pytest.mark.parametrize("name", ["adamw", "galore", "adafactor", "muon"])
def test_whole_state_comes_and_goes(name, three, tmp_path):
    model = Odd()
    optimizer = trained(model, CELLS[name], 2)
    torch.save(weights(model), tmp_path / "weights.pt")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    state = kept(model, optimizer)
    found = three.run(whole_state, CELLS[name], str(tmp_path))
    full = {f"{n}.{k}": x for n, some in found[0][0]["state"].items() for k, x in some.items()}
    assert full.keys() == state.keys()
    for n, x in state.items():
        torch.testing.assert_close(torch.as_tensor(full[n]), torch.as_tensor(x), rtol=1e-5, atol=1e-6)
    trained(model, CELLS[name], 2, 2, optimizer)
    for n, x in weights(model).items():
        torch.testing.assert_close(found[1][1][n], x, rtol=1e-5, atol=1e-6)
