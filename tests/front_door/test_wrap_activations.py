"""Trained linear layers that keep a share of their inputs: what stays exact, what is saved, what draws depend on."""

import copy
import json
import pickle
from dataclasses import dataclass
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning, WtaCrs
from hybridopt.core.contracts import Activations
from hybridopt.core.storages import storage_id
from hybridopt.integrations.trainer_placed import check_not_replicated
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama
from support.saved import anatomy, bits, equal

LORA = {"peft_config": LoraConfig(r=4, target_modules="all-linear")}
SAMPLED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")


def wrapped(make=tiny_llama, activations="wta-crs", policy="adamw", **how):
    torch.manual_seed(0)  # of new adapters
    return hybridopt.wrap(make(), policy=policy, activations=activations, **how)


def gradients(model, seed=0):
    model.zero_grad()
    model(**batch(model, seed=seed)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def saved_bytes(model, given=None):
    """The bytes that a forward pass keeps until the backward pass, beside the parameters."""
    known, found = {storage_id(p) for p in model.parameters()}, {}

    def pack(x):
        if storage_id(x) not in known:
            found[storage_id(x)] = x.untyped_storage()  # alive, so that no other gets its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(**given or batch(model)).loss.backward()
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_bert])
def test_all_gradients_but_those_of_sampled_weights_are_exact(make):
    exact, found = gradients(make()), gradients(wrapped(make))
    other = exact.keys() - same(exact, found)
    assert other
    assert all(name.endswith(".weight") and any(word in name for word in ("layer", ".h.", "pooler")) for name in other)
    assert not any(word in name for name in other for word in ("norm", "Norm", "embed", "head", "classifier", "ln_"))
    assert all(found[name].isfinite().all() for name in found)


def test_what_attention_keeps_anyway_is_used_whole():
    exact, found = gradients(tiny_llama()), gradients(wrapped())
    sampled = {name for name in exact if any(word in name for word in SAMPLED)}
    assert exact.keys() - same(exact, found) == sampled  # o_proj is exact


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_all_rows_are_plain_training_to_the_last_bit(make):
    exact, found = gradients(make()), gradients(wrapped(make, WtaCrs(1.0)))
    assert same(exact, found) == exact.keys() == found.keys()


def test_the_mean_of_many_passes_is_the_gradient():
    model = wrapped(activations=WtaCrs(0.5))
    name = "model.layers.1.mlp.down_proj.weight"
    found = torch.stack([gradients(model)[name] for _ in range(60)])
    off = (found.mean(0) - gradients(tiny_llama())[name]).norm()
    assert off < 1.3 * (found.var(0).sum() / len(found)).sqrt()
    assert off < 0.5 * (found[0] - found[1]).norm()


def test_evaluation_is_exact_and_draws_nothing():
    model, plain = wrapped(), tiny_llama()
    first = gradients(model)
    model.eval()(**batch(model)).loss.backward()
    with torch.no_grad():
        model.train()(**batch(model))
    model.hybrid._inputs._kept._counts.clear()
    assert same(first, gradients(model)) == first.keys()
    plain.zero_grad()
    model.zero_grad()
    model.eval()(**batch(model)).loss.backward()
    plain.eval()(**batch(plain)).loss.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_names_classes_and_state_stay_and_unwrap_restores():
    plain, model = tiny_llama(), wrapped()
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    assert model.hybrid.activations == WtaCrs(0.3)
    found = model.hybrid.unwrap()
    assert not any("forward" in vars(m) for m in found.modules())
    assert same(gradients(plain), gradients(found)) == gradients(plain).keys()


# ---- what is saved


@pytest.mark.parametrize("again", [None, "wta-crs:share=0.9"])
@pytest.mark.parametrize("taken_out", ["merge_and_unload", "unload"])
def test_a_model_whose_adapters_peft_took_out_is_wrapped_without_what_was(taken_out, again):
    base = getattr(wrapped(activations="wta-crs:share=0.1", **LORA), taken_out)().requires_grad_(True)
    model = hybridopt.wrap(base, "adamw", activations=again)
    found = gradients(model)
    expected = gradients(wrapped(activations=again)) if again else gradients(hybridopt.wrap(tiny_llama(), "adamw"))
    assert model.hybrid.activations == (None if again is None else WtaCrs(share=0.9))
    assert same(found, expected) == set(expected)


def test_saved_bytes_fall_by_count():
    """Of each layer three inputs go (attention's, the one of gate and up, down's), and 14 of 48 rows come instead."""
    whole, kept = saved_bytes(tiny_llama()), saved_bytes(wrapped())
    widths, rows, index = 64 + 64 + 128, 4 * 12, 3 * 4
    assert whole - kept == 2 * (widths * 4 * (rows - 14) - index * 14)


def test_layers_with_one_input_share_their_rows():
    model = wrapped()
    taken = []
    layer = model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj"):
        getattr(layer, name).register_forward_hook(lambda m, args, out: taken.append(out.grad_fn.saved_tensors[1:]))
    model(**batch(model))
    (rows, place), (rows_again, place_again) = taken
    assert rows.data_ptr() == rows_again.data_ptr() and place.data_ptr() == place_again.data_ptr()


class Changed(nn.Module):
    """Two layers with an input that is changed between them."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        first = self.one(x)
        x.mul_(2)
        return self.head(first + self.two(x))


def test_an_input_that_was_changed_is_kept_anew():
    model = hybridopt.wrap(Changed().train(), policy="adamw", activations=WtaCrs(0.5))
    model(torch.randn(20, 8)).sum().backward()
    assert model.hybrid._inputs._kept._counts == {"one.weight": 1, "two.weight": 1}


# ---- what draws depend on


class Twice(nn.Module):
    """One layer that is used twice, and one whose weight another one shares."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.three.weight = self.two.weight
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.three(F.silu(self.two(F.silu(self.one(F.silu(self.one(x))))))))


def test_every_use_draws_anew():
    model = hybridopt.wrap(Twice().train(), policy="adamw", activations=WtaCrs(0.5))
    places = []
    for layer in (model.one, model.two, model.three):
        layer.register_forward_hook(lambda m, args, out: places.append(out.grad_fn.saved_tensors[2]))
    x = torch.ones(40, 8)
    model(x)
    model(x)
    found = [tuple(sorted(place.tolist())) for place in places]
    assert len(found) == len(set(found)) == 8


def steps(model, optimizer, numbers, passes=2):
    for step in numbers:
        for each in range(passes):
            model(**batch(model, seed=10 * step + each)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("how", [{}, LORA], ids=["full", "lora"])
def test_a_run_goes_on_as_if_it_had_not_stopped(how, tmp_path):
    whole = wrapped(policy="frugal", update_gap=2, **how)
    steps(whole, whole.hybrid.optimizer(lr=1e-2), range(6))
    first = wrapped(policy="frugal", update_gap=2, **how)
    optimizer = first.hybrid.optimizer(lr=1e-2)
    steps(first, optimizer, range(3))
    torch.save((first.state_dict(), optimizer.state_dict()), tmp_path / "run.pt")
    second = wrapped(policy="frugal", update_gap=2, **how)
    optimizer = second.hybrid.optimizer(lr=1e-2)
    weights, state = torch.load(tmp_path / "run.pt", weights_only=True)
    second.load_state_dict(weights)
    optimizer.load_state_dict(state)
    steps(second, optimizer, range(3, 6))
    assert equal(bits(whole), bits(second))
    other = wrapped(policy="frugal", update_gap=2, seed=1, **how)
    other.load_state_dict(weights)
    steps(other, other.hybrid.optimizer(lr=1e-2), range(3, 6))
    assert not equal(bits(whole), bits(other))


def test_a_folder_brings_the_scheme_back(tmp_path):
    wrapped(activations=WtaCrs(0.2)).hybrid.save_pretrained(tmp_path)
    assert hybridopt.from_pretrained(tiny_llama(), tmp_path).hybrid.activations == WtaCrs(0.2)
    wrapped(activations=None).hybrid.save_pretrained(tmp_path / "plain")
    assert hybridopt.from_pretrained(tiny_llama(), tmp_path / "plain").hybrid.activations is None


@dataclass(frozen=True)
class Doubles(Activations):
    """Keeps all rows, and doubles the gradients."""

    def exact(self, rows, inputs, outputs):
        return False

    def keep(self, x, uniform):
        return (x.clone(),)

    def product(self, kept, gradient):
        return 2 * gradient.t().mm(kept[0])


def test_a_scheme_of_ones_own_is_taken_and_has_to_be_told_again(tmp_path):
    exact, model = gradients(tiny_llama()), wrapped(activations=Doubles())
    found, name = gradients(model), "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[name], 2 * exact[name])
    model.hybrid.save_pretrained(tmp_path)
    with pytest.warns(HybridOptWarning, match="activations='Doubles', which is no part"):
        loaded = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(gradients(loaded)[name], exact[name])
    loaded.hybrid.keep_activations(Doubles())
    assert torch.equal(gradients(loaded)[name], found[name])


def test_a_folder_names_no_other_part_as_activations(tmp_path):
    wrapped(activations=WtaCrs(0.2)).hybrid.save_pretrained(tmp_path)
    path = tmp_path / "hybridopt_config.json"
    text = path.read_text().replace("activations.wta_crs", "codecs.int8").replace('"share": 0.2', '"block": 64')
    path.write_text(text)
    manifest = tmp_path / "hybridopt_manifest.json"
    told = json.loads(manifest.read_text())
    told["files"][path.name] = {"size": len(text), "sha256": sha256(text.encode()).hexdigest()}
    manifest.write_text(json.dumps(told))
    with pytest.raises(HybridOptError, match="part='codecs.int8' is no activations"):
        hybridopt.from_pretrained(tiny_llama(), tmp_path)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_samples_by_itself(copied):
    model = wrapped()
    steps(model, model.hybrid.optimizer(lr=1e-2), range(1))
    other = copied(model)
    one, two = gradients(model), gradients(other)
    assert same(one, two) == one.keys()
    other.hybrid.unwrap()
    assert "forward" in vars(model.model.layers[0].mlp.up_proj)
    assert "forward" not in vars(other.model.layers[0].mlp.up_proj)


# ---- what it goes together with

TOGETHER = {
    "lora": LORA,
    "nf4": {**LORA, "quantization": "nf4"},
    "int8-trainable": {"quantization": "int8-trainable"},
    "fused": {"release": "fused"},
    "lora-fused": {**LORA, "release": "fused"},
    "bf16": {"dtype": torch.bfloat16},
    "autocast": {"autocast": True},
    "adalomo": {"policy": "adalomo", "release": "fused"},
    "galore": {"policy": "galore"},
    "addax": {"policy": "addax"},
    "badam": {"policy": "badam"},
    "clip-fused": {"release": "fused", "clip": 1.0, "clip_mode": "tensor"},
}


@pytest.mark.parametrize("case", TOGETHER)
def test_a_model_learns_with_sampled_inputs(case):
    how = dict(TOGETHER[case])
    dtype, autocast = how.pop("dtype", torch.float32), how.pop("autocast", False)
    after = {name: how.pop(name) for name in ("release", "clip", "clip_mode") if name in how}
    model = hybridopt.wrap(tiny_llama().to(dtype), activations="wta-crs", **{"policy": "adamw", **how})
    optimizer = model.hybrid.optimizer(lr=3e-3, **after)
    given, losses = batch(model), []
    for _ in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**given).loss
        if how.get("policy") == "addax":
            optimizer.probe(lambda: model(**given).loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("case", ["lora", "nf4", "int8-trainable"])
def test_saved_bytes_fall_in_company(case):
    how = TOGETHER[case]
    assert saved_bytes(wrapped(**how)) < 0.95 * saved_bytes(wrapped(activations=None, **how))


def test_gradients_under_autocast_are_those_of_plain_layers():
    exact, found = tiny_llama(), wrapped()
    for model in (exact, found):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch(model)).loss
        loss.backward()
    pairs = zip(exact.named_parameters(), found.parameters(), strict=True)
    assert {n for (n, p), q in pairs if not torch.equal(p.grad, q.grad)} == {
        name for name, _ in exact.named_parameters() if any(word in name for word in SAMPLED)
    }


def test_a_scheme_that_is_told_later_draws_the_same():
    found = []
    for later in (False, True):
        model = wrapped(activations=None if later else "wta-crs")
        optimizer = model.hybrid.optimizer(lr=1e-3)
        if later:
            model.hybrid.keep_activations("wta-crs")
        for seed in range(2):
            found.append(gradients(model, seed))
            optimizer.step()
    assert found[0].keys() == same(found[0], found[2]) and found[1].keys() == same(found[1], found[3])


def test_tensors_on_meta_pass():
    model = wrapped(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))).to("meta")
    assert model(torch.empty(20, 8, device="meta")).shape == (20, 2)


def test_adapters_that_come_later_are_sampled_once_there_is_an_optimizer():
    model = wrapped(**LORA)
    model.add_adapter("other", LoraConfig(r=4, target_modules=["down_proj"]))
    model.set_adapter("other")
    model.hybrid.optimizer(lr=1e-3)
    layer = model.base_model.model.model.layers[0].mlp.down_proj.lora_A["other"]
    assert "forward" in vars(layer)


# ---- what is refused


def checkpointed(make=tiny_llama):
    model = make()
    model.gradient_checkpointing_enable()
    return model


def frozen():
    model = tiny_llama().requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    return model


REFUSED = [
    (tiny_llama, {"activations": "wta"}, "activations='wta' is not known; did you mean 'wta-crs'"),
    (tiny_llama, {"activations": "wta-crs:share=0.3,share=0.2"}, "gives share twice"),
    (tiny_llama, {"activations": 0.3}, "activations=0.3 is not allowed: it lacks"),
    (tiny_llama, {"activations": WtaCrs}, "give an instance"),
    (tiny_llama, {"policy": "mezo"}, "trains by losses alone"),
    (tiny_llama, {"policy": "auto"}, "not allowed with policy='auto'"),
    (checkpointed, {}, "not allowed with gradient checkpointing"),
    (frozen, {}, "LlamaForCausalLM has no linear layer that is trained"),
    (lambda: nn.Sequential(nn.Conv1d(3, 3, 1), nn.Linear(3, 2)), {}, "no linear layer"),
    (tiny_llama, {"peft_config": LoraConfig(r=4, target_modules=["embed_tokens"])}, "no linear layer"),
    (lambda: nn.DataParallel(tiny_llama()), {}, "not allowed with DataParallel.*CUDA_VISIBLE_DEVICES"),
]


@pytest.mark.parametrize("make, how, text", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_changed(make, how, text):
    model = make()
    before, build = bits(model), anatomy(model)
    with pytest.raises(HybridOptError, match=text):
        hybridopt.wrap(model, **{"policy": "adamw", "activations": "wta-crs", **how})
    assert anatomy(model) == build and equal(before, bits(model))
    assert not any("forward" in vars(m) for m in model.modules())


def test_checkpointing_that_is_switched_on_later_is_refused_in_the_forward_pass():
    model = wrapped()
    optimizer = model.hybrid.optimizer(lr=1e-2)
    steps(model, optimizer, range(1))
    model.gradient_checkpointing_enable()
    with pytest.raises(HybridOptError, match="not allowed with gradient checkpointing"):
        model(**batch(model))
    model.gradient_checkpointing_disable()
    steps(model, optimizer, range(1))


def test_copies_of_layers_on_other_devices_are_refused():
    model = wrapped(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    layer = model[0]
    copied = layer._replicate_for_data_parallel()  # as DataParallel makes one for each device but the first
    copied.weight, copied.bias = layer.weight.to("meta"), layer.bias.to("meta")
    with pytest.raises(HybridOptError, match="not allowed with DataParallel"):
        copied(torch.empty(20, 8, device="meta"))
    trainer = SimpleNamespace(model=model, args=SimpleNamespace(n_gpu=1))
    check_not_replicated(trainer)
    trainer.args.n_gpu = 2
    with pytest.raises(HybridOptError, match="not allowed with DataParallel"):
        check_not_replicated(trainer)


class Again(nn.Module):
    """Checkpoints a layer by itself, as many models do."""

    def __init__(self, reentrant):
        super().__init__()
        self.one, self.two, self.head, self.reentrant = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2), reentrant

    def forward(self, x):
        return self.head(checkpoint(self.two, self.one(x), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_that_are_computed_again_by_other_means_are_refused(reentrant):
    model = hybridopt.wrap(Again(reentrant).train(), policy="adamw", activations=WtaCrs(0.5))
    with pytest.raises(HybridOptError, match="'two.weight' is computed again in the backward pass"):
        model(torch.randn(20, 8)).sum().backward()


def test_gradients_of_gradients_are_refused():
    model = wrapped()
    with pytest.raises(HybridOptError, match="create_graph"):
        torch.autograd.grad(
            model(**batch(model)).loss, model.model.layers[0].input_layernorm.weight, create_graph=True
        )
