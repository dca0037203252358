"""Folders of one process, loaded onto sharded models: each rank takes its rows, tensor by tensor, or is refused."""

import warnings
import weakref
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch

import hybridopt
from hybridopt.model.fsdp.sharded_tensors import write_
from hybridopt.model.placement import homes
from hybridopt.saving.replay import rebuild
from support.models import tiny_llama
from support.sharding import by_layer

pytestmark = pytest.mark.slow

TOKENS = torch.arange(24).view(2, 12)


def base():
    torch.manual_seed(0)
    return tiny_llama(layers=3)


def trained(folder, full=False, steps=3, **how):
    """Train in one process, save, and return the weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = hybridopt.wrap(base(), **how)
        optimizer = model.hybrid.optimizer(lr=1e-2)
        for _ in range(steps):
            if optimizer.probes_needed:
                optimizer.probe(lambda: model(input_ids=TOKENS, labels=TOKENS).loss)
            else:
                model(input_ids=TOKENS, labels=TOKENS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.hybrid.save_pretrained(folder, full=full)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    return place, {
        "changes": trained(place / "changes", policy="adamw"),
        "whole": trained(place / "whole", full=True, policy="adamw"),
        "replay": trained(place / "replay", policy="mezo"),
        "codes": trained(place / "codes", policy="adamw", quantization="int8-trainable"),
    }


def sharded():
    return by_layer(base())


def loaded(folder):
    """Load onto shards; return the weights, put together, how many values were written, and the most alive at once."""
    model, alive, most = sharded(), [], []

    def counting(target, values):
        alive.append(weakref.ref(values))
        most.append(sum(ref() is not None for ref in alive))
        write_(target, values)

    with ExitStack() as undo:
        for module in (homes, rebuild):
            undo.enter_context(patch.object(module, "write_", counting))
        model = hybridopt.from_pretrained(model, folder)
    return {name: p.full_tensor().detach() for name, p in model.named_parameters()}, len(alive), max(most)


@pytest.mark.parametrize("kind", ["changes", "whole", "replay", "codes"])
def test_every_rank_takes_its_rows(kind, folders, two):
    place, expected = folders
    for found, written, most in two.run(loaded, str(place / kind)):
        assert written >= (6 if kind == "codes" else 20) and most <= 2  # the last two
        assert found.keys() == expected[kind].keys()
        for name, x in expected[kind].items():
            assert found[name].equal(x), name


def changed(folder):
    """A run whose base is another one: nothing is written."""
    model = sharded()
    with torch.no_grad():
        model.lm_head.weight.to_local().add_(1)
    before = [p.to_local().clone() for p in model.parameters()]
    with pytest.raises(hybridopt.HybridOptError, match="lm_head"):
        hybridopt.from_pretrained(model, folder)
    assert all(p.to_local().equal(x) for p, x in zip(model.parameters(), before, strict=True))


def test_a_run_is_not_rebuilt_on_another_base(folders, two):
    two.run(changed, str(folders[0] / "replay"))
