"""Models that `torch.compile` was called on: wherever it was, all is as on the plain model, and so are the files."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer, HybridOptWarning, WtaCrs
from hybridopt.model.containers import uncompiled
from hybridopt.optimizer.replicas.replicas import Replicated
from support.models import batch, tiny_llama
from support.saved import bits, different, equal

QUERY = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled(module):
    return torch.compile(module, backend="eager")


def whole(model):
    return compiled(model)


def in_place(model):
    model.compile(backend="eager")
    return model


def layer(model):
    model.model.layers[0] = compiled(model.model.layers[0])
    return model


def layer_in_place(model):
    model.model.layers[0].compile(backend="eager")
    return model


def body(model):
    model.model = compiled(model.model)
    return model


def attention(model):
    model.model.layers[0].self_attn = compiled(model.model.layers[0].self_attn)
    return model


def linear(model):
    own = model.model.layers[0].self_attn
    own.q_proj = compiled(own.q_proj)
    return model


def head(model):
    model.lm_head = compiled(model.lm_head)
    return model


WAYS = (whole, in_place, layer, layer_in_place, body, attention, linear, head)
KINDS = {
    "plain": {},
    "lora": {"peft_config": LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"])},
    "nf4": {"peft_config": LoraConfig(**QUERY), "quantization": "nf4"},
    "int8": {"quantization": "int8"},
    "int8-trainable": {"quantization": "int8-trainable"},
}


def wrapped(model, kind):
    torch.manual_seed(0)
    return hybridopt.wrap(model, **KINDS[kind], update_gap=2)


def train(model, steps=2):
    optimizer = model.hybrid.optimizer(lr=1e-2)
    for step in range(steps):
        model(**batch(tiny_llama(layers=1), size=2, seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def names(optimizer):
    return [group["param_names"] for group in optimizer.param_groups]


def plain_state(model):
    with uncompiled(model) as inner:
        return bits(inner)


def near(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def texts(folder):
    return b"".join(file.read_bytes() for file in Path(folder).rglob("*") if file.is_file())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_strategy_is_that_of_the_plain_model(kind, way):
    plain = wrapped(tiny_llama(layers=1), kind)
    model = wrapped(way(tiny_llama(layers=1)), kind)
    assert model.hybrid.tags == plain.hybrid.tags
    assert str(model.hybrid.report()) == str(plain.hybrid.report())
    assert model.hybrid.quantized == plain.hybrid.quantized
    assert names(model.hybrid.optimizer()) == names(plain.hybrid.optimizer())
    assert model.hybrid.base == plain.hybrid.base and model.hybrid.codes == plain.hybrid.codes
    assert model.hybrid.unwrap() is model and not hasattr(model, "hybrid")


@pytest.mark.parametrize(
    ("kind", "way"),
    [("plain", whole), ("plain", linear), ("lora", whole), ("lora", layer), ("nf4", whole), ("nf4", linear)]
    + [("int8", body), ("int8-trainable", attention)],
)
def test_it_trains_saves_and_loads_as_the_plain_model(kind, way, tmp_path):
    plain, model = wrapped(tiny_llama(layers=1), kind), wrapped(way(tiny_llama(layers=1)), kind)
    first, second = train(plain), train(model)
    near(plain_state(model), bits(plain))
    model.hybrid.save_pretrained(tmp_path)
    assert b"_orig_mod" not in texts(tmp_path)
    there, other = (json.loads((f / "hybridopt_config.json").read_text()) for f in (tmp_path, saved(plain, tmp_path)))
    assert {key for key in there if there[key] != other[key]} == set()
    again = hybridopt.from_pretrained(tiny_llama(layers=1), tmp_path)
    assert not different(bits(again), plain_state(model))
    onto = hybridopt.from_pretrained(way(tiny_llama(layers=1)), tmp_path)
    assert not different(plain_state(onto), bits(again)) and type(onto) is type(model)
    for target, state in ((plain, second.state_dict()), (model, first.state_dict())):
        optimizer = target.hybrid.optimizer(lr=1e-2)
        optimizer.load_state_dict(state)
        assert equal(optimizer.state_dict()["state"], state["state"])
    assert "_orig_mod" not in str(second.state_dict()["param_groups"])


def saved(model, folder):
    model.hybrid.save_pretrained(folder / "plain")
    return folder / "plain"


@pytest.mark.parametrize("way", [whole, layer_in_place, linear])
def test_layers_that_were_run_before_are_run_anew_once_quantized(way):
    model, inputs = way(tiny_llama(layers=1)), batch(tiny_llama(layers=1), size=2)
    with torch.no_grad():
        dense = model(**inputs).logits
        coarse = hybridopt.wrap(model, quantization="nf4")(**inputs).logits
        plain = hybridopt.wrap(tiny_llama(layers=1), quantization="nf4")(**inputs).logits
    assert not torch.allclose(dense, coarse, atol=1e-3)
    torch.testing.assert_close(coarse, plain, atol=1e-5, rtol=1e-4)


def test_a_linear_layer_compiled_in_place_is_not_replaced_by_one_that_is_not():
    model = tiny_llama(layers=1)
    model.model.layers[0].mlp.up_proj.compile(backend="eager")
    with pytest.raises(HybridOptError, match=r"up_proj was compiled in place.*torch.compile.*after wrap"):
        hybridopt.wrap(model, quantization="nf4")
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    hybridopt.wrap(model, quantization="int8-trainable")


def test_adapters_that_go_past_what_was_compiled_in_place_are_warned_of():
    with pytest.warns(HybridOptWarning, match=r"model.compile\(\).*call compile\(\) on what wrap returns"):
        hybridopt.wrap(in_place(tiny_llama(layers=1)), peft_config=LoraConfig(**QUERY))


def test_with_adapters_the_peft_model_is_compiled(tmp_path):
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph

    model = torch.compile(tiny_llama(layers=1), backend=backend)
    model = hybridopt.wrap(model, peft_config=LoraConfig(**QUERY))
    assert isinstance(model, PeftModel) and model is model.hybrid.model and model.hybrid.unwrap() is model
    assert not any("_orig_mod" in name for name in model.state_dict())
    with torch.no_grad():
        model(**batch(tiny_llama(layers=1), size=2))
    assert seen
    model = hybridopt.wrap(model)
    model.hybrid.save_pretrained(tmp_path)
    seen.clear()
    again = hybridopt.from_pretrained(torch.compile(tiny_llama(layers=1), backend=backend), tmp_path)
    with torch.no_grad():
        again(**batch(tiny_llama(layers=1), size=2))
    assert isinstance(again, PeftModel) and seen


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], r".*\.q_proj"])
def test_adapters_on_a_compiled_model_are_those_of_the_plain_one(targets, tmp_path):
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    model = hybridopt.wrap(get_peft_model(whole(tiny_llama(layers=1)), config))
    assert not any("_orig_mod" in name for name in model.hybrid.tags)
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    assert b"_orig_mod" not in texts(tmp_path)
    inputs = batch(tiny_llama(layers=1), size=2)
    with torch.no_grad():
        wanted = model.eval()(**inputs).logits
        for again in (PeftModel.from_pretrained, hybridopt.from_pretrained):
            found = again(tiny_llama(layers=1), str(tmp_path)).eval()(**inputs).logits
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [None, LoraConfig(**QUERY)])
def test_it_may_be_compiled_after_wrap(config, tmp_path):
    plain = hybridopt.wrap(tiny_llama(layers=1), peft_config=config)
    tags = plain.hybrid.tags
    model = whole(plain)
    optimizer = train(model)
    assert model.hybrid.tags == tags and model.hybrid.unwrap is not None
    model.hybrid.save_pretrained(tmp_path)
    assert b"_orig_mod" not in texts(tmp_path)
    assert not different(bits(hybridopt.from_pretrained(tiny_llama(layers=1), tmp_path)), bits(plain))
    layer(plain if config is None else plain.get_base_model())
    assert plain.hybrid.tags == tags
    later = plain.hybrid.optimizer(lr=1e-2)
    later.load_state_dict(optimizer.state_dict())
    plain.hybrid.save_pretrained(tmp_path)
    assert b"_orig_mod" not in texts(tmp_path)


def test_a_wrapped_model_is_wrapped_when_compiled():
    model = hybridopt.wrap(tiny_llama(layers=1))
    with pytest.raises(HybridOptError, match="wrapped already"):
        hybridopt.wrap(whole(model))
    with pytest.raises(HybridOptError, match="wrapped already"):
        hybridopt.wrap(hybridopt.wrap(whole(tiny_llama(layers=1))))


def test_copies_and_pickles_of_a_compiled_model_are_wrapped():
    model = hybridopt.wrap(whole(tiny_llama(layers=1)))
    twin = copy.deepcopy(model)
    assert twin.hybrid.model is twin._orig_mod and twin.hybrid.model is not model.hybrid.model
    again = pickle.loads(pickle.dumps(model.hybrid.model))
    assert again.hybrid.tags == model.hybrid.tags and again.hybrid.unwrap() is again


def test_memory_is_that_of_the_plain_model():
    plain = hybridopt.wrap(tiny_llama(layers=1)).hybrid.memory(seq_len=8)
    for way in (whole, layer, in_place):
        assert hybridopt.wrap(way(tiny_llama(layers=1))).hybrid.memory(seq_len=8).peak_bytes == plain.peak_bytes


@pytest.mark.parametrize("policy", ["mezo", "addax"])
def test_probes_of_a_compiled_model_lead_to_the_same_weights(policy, tmp_path):
    results, inputs = [], batch(tiny_llama(layers=1), size=2)
    for way in (lambda model: model, whole):
        model = hybridopt.wrap(way(tiny_llama(layers=1)), policy=policy)
        optimizer = model.hybrid.optimizer(lr=1e-3)
        for _ in range(2):
            optimizer.step(lambda model=model: model(**inputs).loss)
            optimizer.zero_grad()
        results.append(plain_state(model))
        near(results[-1], results[0])
        model.hybrid.save_pretrained(tmp_path)
        assert b"_orig_mod" not in texts(tmp_path)
        assert not different(bits(hybridopt.from_pretrained(tiny_llama(layers=1), tmp_path)), results[-1])


def test_roles_by_the_names_of_a_compiled_model_are_found():
    model = whole(tiny_llama(layers=1))
    roles = {name: "norm" for name, p in model.named_parameters() if p.ndim == 1}
    optimizer = HybridOptimizer(model.named_parameters(), roles=roles)
    assert optimizer._tags.roles["model.norm.weight"] == "norm"
    assert not any("_orig_mod" in name for name in sum(names(optimizer), []))


AROUND = (nn.DataParallel, lambda m: nn.DataParallel(whole(m)), lambda m: whole(nn.DataParallel(m)))


@pytest.mark.parametrize("around", AROUND)
def test_a_model_for_several_devices_is_wrapped_as_itself(around, tmp_path):
    plain, model = hybridopt.wrap(tiny_llama(layers=1)), around(tiny_llama(layers=1))
    assert hybridopt.wrap(model) is model
    assert model.hybrid.tags == plain.hybrid.tags
    optimizer = model.hybrid.optimizer(lr=1e-2)
    assert names(optimizer) == names(plain.hybrid.optimizer())
    model.hybrid.save_pretrained(tmp_path)
    hybridopt.from_pretrained(tiny_llama(layers=1), tmp_path)
    with pytest.raises(HybridOptError, match="wrapped already"):
        hybridopt.wrap(model)
    assert model.hybrid.unwrap() is model and not hasattr(model, "hybrid")
    for change in ({"quantization": "nf4"}, {"peft_config": LoraConfig(**QUERY)}, {"policy": "auto"}):
        with pytest.raises(HybridOptError, match="DataParallel holds the parameters.*give the model itself"):
            hybridopt.wrap(model, **change)
    with pytest.raises(HybridOptError, match="DataParallel holds the parameters"):
        hybridopt.from_pretrained(model, tmp_path)


def test_inputs_are_sampled_outside_of_what_is_compiled():
    plain = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 2))
    model = copy.deepcopy(plain)
    x = torch.randn(20, 8)
    for each in (
        hybridopt.wrap(plain, activations=WtaCrs(0.5)),
        hybridopt.wrap(whole(model), activations=WtaCrs(0.5)),
    ):
        each(x).sum().backward()
    pairs = zip(plain.parameters(), model.parameters(), strict=True)
    assert all(torch.allclose(p.grad, q.grad, rtol=1e-5, atol=1e-6) for p, q in pairs)
    assert model.hybrid._inputs._kept._counts == plain.hybrid._inputs._kept._counts == {"0.weight": 1, "2.weight": 1}


def test_the_hook_that_looks_for_replicas_is_no_part_of_what_is_compiled():
    class Told:
        compiling = ()

        def entered(self, ddp):
            self.compiling = (*self.compiling, torch.compiler.is_compiling())

    told, model = Told(), nn.Linear(3, 3)
    model.register_forward_pre_hook(Replicated(told))
    for _ in range(2):
        whole(model)(torch.ones(2, 3))
    assert told.compiling == (False, False)
