"""Adapters that are loaded onto a sharded model: sharded as their layers are, the same as of one process."""

import re
import warnings
import weakref
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, VeraConfig, get_peft_model

import hybridopt
from hybridopt.model.fsdp import units as fsdp_units
from hybridopt.model.fsdp.sharded_tensors import write_
from hybridopt.model.placement import homes
from support.models import tiny_llama
from support.quantized import quantized
from support.sharded_llama import trained
from support.sharding import going_on, kept, weights

pytestmark = pytest.mark.slow

TARGETS = {"r": 3, "target_modules": ["q_proj", "down_proj"]}
CELLS = {
    "many": {
        "config": TARGETS | {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
        "second": TARGETS | {"use_dora": True},
        "units": ["lm_head", "model.layers.0.self_attn.q_proj"],
    },
    "nf4": {"config": TARGETS, "scheme": "nf4"},
    "nf4-of-floats": {"config": TARGETS, "quantization": "nf4", "biases": True},
    "int8-of-floats": {"config": TARGETS, "quantization": "int8", "layers": False},
    "nf4-of-pairs": {"config": TARGETS, "quantization": "nf4", "layers": False, "units": [["0", "1"]]},
    "bf16-root": {"config": TARGETS, "dtype": torch.bfloat16, "layers": False},
}
STEPS = 2
TOKENS = torch.arange(24).view(2, 12)


def sharded(model, layers=True, units=(), **options):
    from torch.distributed.fsdp import fully_shard

    for name in units:
        together = [model.model.layers[int(number)] for number in name] if isinstance(name, list) else None
        fully_shard(together or model.get_submodule(name), **options)
    for layer in model.model.layers if layers else ():
        fully_shard(layer, **options, ignored_params=codes(layer))
    return fully_shard(model, **options, ignored_params=codes(model))


def codes(module):
    return {p for p in module.parameters() if not p.is_floating_point()}


def bare(cell):
    torch.manual_seed(0)
    model = tiny_llama(layers=2, attention_bias="biases" in cell).to(cell.get("dtype", torch.float32))
    return quantized(model, cell["scheme"], ["lm_head"]) if cell.get("scheme") else model


def saved(folder, cell):
    torch.manual_seed(1)
    how = {"peft_config": LoraConfig(**cell["config"]), "quantization": cell.get("quantization")}
    model = hybridopt.wrap(bare(cell), policy="lion", **how)
    if "second" in cell:
        model.add_adapter("second", LoraConfig(**cell["second"]))
        model.set_adapter("second")
        trained(model)
        model.set_adapter("default")
    trained(model)
    model.hybrid.save_pretrained(folder)
    return weights(model)


def loaded(folder, name):
    """Load onto shards; return the model, how many tensors were written, and how many were whole at once."""
    cell, alive, most = CELLS[name], [], []
    model = sharded(bare(cell), cell.get("layers", True), cell.get("units", ()))

    def counting(target, values):
        alive.append(weakref.ref(values))
        most.append(sum(ref() is not None for ref in alive))
        write_(target, values)

    with patch.object(homes, "write_", counting), patch.object(fsdp_units, "write_", counting):
        model = hybridopt.from_pretrained(model, folder)
    assert len(alive) >= 4 and max(most) <= 2
    return model


def again(folder, name, out):
    """Load onto shards, save, train on; return weights before and after, and whether all that is trained is cut."""
    model = loaded(folder, name)
    cut = all(hasattr(p, "device_mesh") for p in model.parameters() if p.requires_grad)
    model.hybrid.save_pretrained(out)
    before = weights(model)
    trained(model, first=STEPS)
    return before, weights(model), cut


@contextmanager
def older(model, missing=""):
    """Let units keep one group each, as in torch 2.10, and groups lack what torch may call otherwise."""
    from torch.distributed.fsdp import FSDPModule

    units = [m._get_fsdp_state() for m in model.modules() if isinstance(m, FSDPModule)]
    if "_fsdp_param_groups" not in vars(units[0]):  # this torch is as old
        for state in units:
            vars(state._fsdp_param_group).pop(missing, None)
        yield
        return
    kind, all_ = type(units[0]), [state._fsdp_param_groups for state in units]
    several = property(lambda self: [group for group in (self._fsdp_param_group,) if group])  # for torch itself
    old = type("Older", (kind,), {"_fsdp_param_group": None, "_fsdp_param_groups": several})
    for state, (group,) in zip(units, all_, strict=True):
        del state._fsdp_param_groups
        state.__class__, state._fsdp_param_group = old, group
        vars(group).pop(missing, None)
    try:
        yield
    finally:
        for state in units:
            group = vars(state).pop("_fsdp_param_group")
            state.__class__, state._fsdp_param_groups = kind, [] if group is None else [group]


def of_older_torch(folder):
    """Load onto units as older torch keeps them, and onto those of a torch that is not known."""
    model = sharded(bare(CELLS["nf4-of-floats"]))
    with older(model):
        model = hybridopt.from_pretrained(model, folder)
    trained(model, first=STEPS)
    other = sharded(bare(CELLS["nf4-of-floats"]))
    before = [(n, type(m)) for n, m in other.named_modules()]
    with older(other, missing="offload_policy"), pytest.raises(hybridopt.HybridOptError) as error:
        hybridopt.from_pretrained(other, folder)
    assert before == [(n, type(m)) for n, m in other.named_modules()]
    return weights(model), str(error.value)


def test_units_are_known_as_older_torch_keeps_them(two, tmp_path):
    saved(tmp_path / "one", CELLS["nf4-of-floats"])
    alone = hybridopt.from_pretrained(bare(CELLS["nf4-of-floats"]), tmp_path / "one")
    trained(alone, first=STEPS)
    for found, text in two.run(of_older_torch, str(tmp_path / "one")):
        for n, x in weights(alone).items():
            torch.testing.assert_close(found[n], x, rtol=1e-3, atol=1e-4)
        assert "has no 'offload_policy'" in text and "load onto the plain model" in text


def told_of_plain_adapters():
    """Put adapters on by PEFT itself, before and after the base is sharded, and return what is warned of."""
    found = []
    for late in (True, False):
        model = sharded(bare({})) if late else bare({})
        model = get_peft_model(model, LoraConfig(**TARGETS))
        if not late:
            sharded(model.get_base_model())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            hybridopt.wrap(model, policy="lion").hybrid.optimizer(lr=1e-2)
        found.append([str(each.message) for each in said if each.category is hybridopt.HybridOptWarning])
    return found


def test_adapters_that_nobody_averages_are_told(two):
    for late, before in two.run(told_of_plain_adapters):
        assert re.search("lora_A.*7 more: trained, and not sharded as others .*ranks drift apart", late[0])
        assert not before


def files(folder):
    """The content of all files, but for the order in which PEFT writes sets."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {p: x if p.suffix == ".safetensors" else sorted(x) for p, x in found.items() if "manifest" not in p.name}


@pytest.mark.parametrize("name", CELLS)
def test_adapters_go_onto_shards(name, two, tmp_path):
    before = saved(tmp_path / "one", CELLS[name])
    found = two.run(again, str(tmp_path / "one"), name, str(tmp_path / "two"))
    assert files(tmp_path / "two") == files(tmp_path / "one")
    alone = hybridopt.from_pretrained(bare(CELLS[name]), tmp_path / "one")
    trained(alone, first=STEPS)
    for first, last, cut in found:
        assert cut and first.keys() == before.keys()
        for n, x in weights(alone).items():
            assert first[n].equal(before[n]), n
            assert last[n].equal(found[0][1][n]), n
            torch.testing.assert_close(last[n], x, rtol=1e-3, atol=2e-2 if "dtype" in CELLS[name] else 1e-4)


def part(folder, number, place):
    """Load the folder onto shards, then what the part before has saved, train, and save."""
    model = loaded(folder, "many")
    optimizer = model.hybrid.optimizer(lr=1e-2)
    with going_on(model, optimizer, place, number):
        trained(model, first=number * STEPS, optimizer=optimizer)
    return weights(model), kept(model, optimizer)


def test_loaded_adapters_go_on_with_other_ranks(two, three, tmp_path):
    folder, place = str(tmp_path / "one"), str(tmp_path / "parts")
    saved(folder, CELLS["many"])
    two.run(part, folder, 0, place)
    (found, state), *_ = three.run(part, folder, 1, place)
    alone = hybridopt.from_pretrained(bare(CELLS["many"]), folder)
    optimizer = trained(alone, 2 * STEPS)
    for n, x in weights(alone).items():
        torch.testing.assert_close(found[n], x, rtol=1e-3, atol=1e-4)
    expected = kept(alone, optimizer)
    assert state.keys() == expected.keys()
    assert all(torch.as_tensor(state[n]).shape == torch.as_tensor(x).shape for n, x in expected.items())


def injected(folder, out):
    """Load adapters that transformers itself has put in, in mixed precision, to be trained and for inference."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    halved = {"mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)}
    model = hybridopt.from_pretrained(sharded(bare({}), **halved), folder)
    assert model.hybrid.model is model and model.training
    dtypes = []
    model.model.layers[0].self_attn.q_proj.lora_A["default"].register_forward_hook(
        lambda module, *_: dtypes.append(module.weight.dtype)
    )
    model.hybrid.save_pretrained(out)
    before = weights(model)
    trained(model)
    idle = hybridopt.from_pretrained(sharded(bare({})), folder, is_trainable=False)
    assert not idle.training and not any(p.requires_grad for n, p in idle.named_parameters() if "lora" in n)
    return before, set(dtypes), idle(input_ids=TOKENS).logits.detach()


def test_injected_adapters_are_gathered_in_the_precision_of_their_layer(two, tmp_path):
    torch.manual_seed(1)
    model = bare({})
    model.add_adapter(LoraConfig(**TARGETS, init_lora_weights=False))
    model = hybridopt.wrap(model, policy="lion")
    model.hybrid.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        expected = model.eval()(input_ids=TOKENS).logits
    for before, dtypes, answer in two.run(injected, str(tmp_path / "one"), str(tmp_path / "two")):
        assert all(before[n].equal(x) for n, x in weights(model).items()) and dtypes == {torch.bfloat16}
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def refused(folder, called):
    model = sharded(bare({}))
    if called:
        model(input_ids=TOKENS)
    before = [(n, type(m), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    with pytest.raises(hybridopt.HybridOptError) as error:
        hybridopt.from_pretrained(model, folder)
    assert before == [(n, type(m), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    assert model(input_ids=TOKENS, labels=TOKENS).loss.isfinite()
    return str(error.value)


def test_what_cannot_be_sharded_is_refused_before_anything_is_changed(two, tmp_path):
    saved(tmp_path / "lora", {"config": TARGETS})
    vera = VeraConfig(r=4, target_modules=["q_proj"])
    hybridopt.wrap(bare({}), policy="lion", peft_config=vera).hybrid.save_pretrained(tmp_path / "vera")
    for text in two.run(refused, str(tmp_path / "lora"), True):
        assert "adapter 'default' (LoraConfig) cannot be put on a sharded model that has been called" in text
    for text in two.run(refused, str(tmp_path / "vera"), False):
        assert "adapter 'default' (VeraConfig) cannot be put on a sharded model" in text
        assert "shard it afterwards" in text
