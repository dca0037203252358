"""`wrap(peft_config=...)` of a sharded model: the adapters of one process, sharded as their layers are."""

import pytest
import torch
from peft import LoraConfig
from torch import distributed

import hybridopt
from support.models import tiny_llama
from support.sharded_llama import trained
from support.sharding import weights

pytestmark = pytest.mark.slow

LORA = {"r": 3, "target_modules": ["q_proj", "down_proj"]}


def sharded(ranks):
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = tiny_llama(layers=2)
    for layer in model.model.layers if ranks else ():
        fully_shard(layer)
    return fully_shard(model) if ranks else model


def adapted(ranks, out=None):
    """Put adapters on, train them, and save; return weights before and after, and whether all of them are cut."""
    model = sharded(ranks)
    torch.manual_seed(1 + (distributed.get_rank() if ranks else 0))  # the first rank draws for all
    model = hybridopt.wrap(model, policy="lion", peft_config=LoraConfig(**LORA), adapter_dtype="float32")
    before, cut = weights(model), all(hasattr(p, "device_mesh") for p in model.parameters())
    trained(model)
    if out:
        model.hybrid.save_pretrained(out)
    return before, weights(model), cut


def refused(options):
    model = sharded(True)
    before = [(n, id(p)) for n, p in model.named_parameters()]
    with pytest.raises(hybridopt.HybridOptError, match=r"begins with values of weights.*wrap first, then fully_shard"):
        hybridopt.wrap(model, policy="lion", peft_config=LoraConfig(**LORA | options))
    assert before == [(n, id(p)) for n, p in model.named_parameters()]
    tokens = torch.ones(2, 8, dtype=torch.int64)
    model(input_ids=tokens)
    with pytest.raises(hybridopt.HybridOptError, match=r"adapters cannot be put on.*has been called"):
        hybridopt.wrap(model, policy="lion", peft_config=LoraConfig(**LORA))


def test_new_adapters_are_those_of_one_process(two, tmp_path):
    first, last, _ = adapted(False, tmp_path / "one")
    for begun, found, cut in two.run(adapted, True, str(tmp_path / "two")):
        assert cut and begun.keys() == first.keys()
        assert all(x.equal(begun[n]) for n, x in first.items())
        for n, x in last.items():
            torch.testing.assert_close(found[n], x, rtol=1e-3, atol=1e-4)
    loaded = hybridopt.from_pretrained(sharded(False), tmp_path / "two")
    assert all(x.equal(found[n]) for n, x in weights(loaded).items())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapters_that_read_weights_are_refused(options, two):
    two.run(refused, options)
