"""torch.distributed.checkpoint of zeroth-order runs: 2 ranks, then 3, then one process, moments included."""

import warnings
from unittest.mock import patch

import pytest
import torch

import hybridopt
from hybridopt.execution.backends.native import Native
from hybridopt.parts.codecs.int8 import Int8
from hybridopt.saving.names import DELTA, REPLAY
from support.sharded_probing import Loss, probed
from support.sharding import going_on, kept, sharded, weights

pytestmark = pytest.mark.slow

CELLS = {
    "mezo": {"policy": "mezo"},
    "subzero": {"policy": "subzero", "rank": 2, "update_gap": 4},
    "zo_momentum": {"policy": "zo_momentum"},
    "zo_adam": {"policy": "zo_adam"},
    "zo_adam-int8": {"policy": "zo_adam", "codec": Int8(16, 0)},  # some state lies on one rank
    "zo_momentum-bf16": {"policy": "zo_momentum", "dtype": torch.bfloat16},
}
STEPS = 3  # of each part of a run


def part(options, number, folder, ranks=True):
    """Load part `number` of a run, if it is not the first, train, and save; return the weights and all state."""
    options = dict(options)
    model = hybridopt.wrap(Loss(options.pop("dtype", torch.float32)), **options)
    model = sharded(model) if ranks else model
    with patch.object(Native, "fits", lambda self, task: False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = model.hybrid.optimizer(lr=0.05)
        with going_on(model, optimizer, folder, number):
            probed(model, {}, STEPS, number * STEPS, optimizer)
    return weights(model), kept(model, optimizer)


@pytest.mark.parametrize("name", CELLS)
def test_a_run_goes_on_with_other_ranks(name, two, three, tmp_path):
    options = CELLS[name]
    two.run(part, options, 0, str(tmp_path))
    three.run(part, options, 1, str(tmp_path))
    found, state = part(options, 2, str(tmp_path), ranks=False)
    options = dict(options)
    model = hybridopt.wrap(Loss(options.pop("dtype", torch.float32)), **options)
    with patch.object(Native, "fits", lambda self, task: False):
        optimizer = probed(model, {}, 3 * STEPS, 0, model.hybrid.optimizer(lr=0.05))
    expected = kept(model, optimizer)
    for n, x in weights(model).items():
        assert x.equal(found[n]), (n, (x - found[n]).abs().max())
    assert state.keys() == expected.keys()
    for n, x in expected.items():
        assert x.equal(state[n]) if isinstance(x, torch.Tensor) else x == state[n], n


def saved(folder, ranks=False, wrapped_first=True, policy="mezo"):
    """Train, save, load the optimizer's state anew, and save once more."""
    model = hybridopt.wrap(Loss(), policy=policy) if wrapped_first else Loss()
    model = sharded(model) if ranks else model
    model = model if wrapped_first else hybridopt.wrap(model, policy=policy)
    optimizer = probed(model, {}, STEPS, 0, model.hybrid.optimizer(lr=0.05))
    model.hybrid.save_pretrained(f"{folder}/first")
    optimizer.load_state_dict(optimizer.state_dict())
    model.hybrid.save_pretrained(f"{folder}/second")
    with torch.no_grad():
        model.norm.weight.mul_(2)  # by somebody else: it cannot be rebuilt from losses any more
    model.hybrid.save_pretrained(f"{folder}/changed")
    return weights(model)


@pytest.mark.parametrize(("wrapped_first", "policy"), [(True, "mezo"), (False, "lezo")])
def test_a_sharded_run_is_saved_as_scalars_and_rebuilt_on_one_process(wrapped_first, policy, two, tmp_path):
    saved(tmp_path / "alone", policy=policy)
    trained = two.run(saved, str(tmp_path / "ranks"), True, wrapped_first, policy)[0]
    for name in ("first", "second"):
        files = {path.name: path.read_bytes() for path in (tmp_path / "ranks" / name).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (tmp_path / "alone" / name).iterdir()}
        assert REPLAY in files and DELTA not in files
        model = hybridopt.from_pretrained(Loss(), tmp_path / "ranks" / name)
        for n, x in weights(model).items():
            assert x.equal(trained[n] / 2 if n == "norm.weight" else trained[n]), n
    assert {path.name for path in (tmp_path / "ranks" / "changed").iterdir()} >= {DELTA}
    for n, x in weights(hybridopt.from_pretrained(Loss(), tmp_path / "ranks" / "changed")).items():
        assert x.equal(trained[n]), n
