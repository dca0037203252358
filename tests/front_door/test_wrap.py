"""`wrap` adds one plain attribute and changes nothing else; `unwrap` takes it away with all it did."""

import copy
import gc
import io
import json
import pickle
import weakref

import pytest
import torch
from peft import LoraConfig
from torch import nn

import hybridopt
from hybridopt import Strategy
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_resnet, tiny_vit
from support.saved import bits, equal

INPUT = torch.linspace(-1, 1, 12).view(2, 6)
HUGGING_FACE = (tiny_llama, tiny_moe, tiny_gpt2, tiny_bert, tiny_vit)
MODELS = (*HUGGING_FACE, tiny_resnet, tiny_lstm)


def linear():
    torch.manual_seed(0)
    return nn.Linear(6, 4)


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 4))


ALL = (*MODELS, linear, sequential)


def loss_of(model):
    if isinstance(model, nn.Linear | nn.Sequential):
        return model(INPUT).square().mean()
    return model(**batch(model)).loss


def compiled_loss(compiled, plain):
    if isinstance(plain, nn.Linear | nn.Sequential):
        return compiled(INPUT).square().mean()
    return compiled(**batch(plain)).loss


def train(model, steps=2, **options):
    optimizer = model.hybrid.optimizer(**{"lr": 1e-2} | options)
    for _ in range(steps):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("make", ALL)
def test_wrap_changes_nothing_but_one_attribute(make):
    model, plain = make(), make()
    attributes, forward = set(vars(model)), type(model).forward
    identities = [id(p) for p in model.parameters()]
    assert hybridopt.wrap(model) is model
    assert type(model) is type(plain)
    assert set(vars(model)) - attributes == {"hybrid"} and isinstance(vars(model)["hybrid"], Strategy)
    assert "forward" not in vars(model) and type(model).forward is forward
    assert [id(p) for p in model.parameters()] == identities
    assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]
    assert list(model.state_dict()) == list(plain.state_dict()) and equal(bits(model), bits(plain))
    assert all(p.requires_grad and not p._post_accumulate_grad_hooks for p in model.parameters())
    assert model.training
    assert torch.equal(loss_of(model), loss_of(plain))


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [copied, pickled, saved])
@pytest.mark.parametrize("make", ALL)
def test_copies_train_on_their_own(make, again):
    model = hybridopt.wrap(make(), policy="frugal", density=0.5, seed=3)
    train(model)
    twin = again(model)
    before = bits(model)
    assert twin is not model and twin.hybrid is not model.hybrid
    assert twin.hybrid.model is twin and equal(bits(twin), before)
    assert twin.hybrid.policy == model.hybrid.policy and twin.hybrid.seed == 3
    assert twin.hybrid.changed_tensors().keys() == model.hybrid.changed_tensors().keys()
    train(twin)
    assert equal(bits(model), before) and not equal(bits(twin), before)
    train(model)
    assert equal(bits(model), bits(twin))


@pytest.mark.parametrize("again", [copied, pickled, saved])
def test_copies_know_what_has_changed(again):
    model = hybridopt.wrap(tiny_llama(), embeddings="frozen")
    assert not model.hybrid.changed_tensors() and not again(model).hybrid.changed_tensors()
    trained = {n for group in train(model).param_groups for n in group["param_names"]}
    twin = again(model)
    assert twin.hybrid.changed_tensors().keys() == trained
    with torch.no_grad():
        twin.model.embed_tokens.weight.add_(1)
    assert twin.hybrid.changed_tensors().keys() == trained | {"model.embed_tokens.weight"}
    assert model.hybrid.changed_tensors().keys() == trained


@pytest.mark.parametrize("make", ALL)
def test_torch_compile_takes_it_whole(make):
    torch._dynamo.reset()
    size = {"layers": 1} if make in HUGGING_FACE else {}
    model, plain = hybridopt.wrap(make(**size)), make(**size)
    fullgraph = make not in (tiny_lstm, tiny_gpt2)  # these break the graph by themselves
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    compiled_loss(compiled, plain).backward()
    loss_of(plain).backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.allclose(p.grad, q.grad, atol=1e-6)
    assert compiled.hybrid is model.hybrid


@pytest.mark.parametrize("make", [tiny_llama, tiny_moe, tiny_gpt2])
def test_generate(make):
    prompt = torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 5, "do_sample": False}
    model = hybridopt.wrap(make()).eval()
    assert torch.equal(model.generate(prompt, **options), make().eval().generate(prompt, **options))


@pytest.mark.parametrize("make", HUGGING_FACE)
def test_hugging_face_saves_and_loads_it(make, tmp_path):
    model = hybridopt.wrap(make())
    train(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(make()).__name__]
    assert equal(bits(again), bits(model)) and "hybrid" not in vars(again)


@pytest.mark.parametrize(
    ("make", "policy"),
    [(m, "frugal") for m in ALL if m is not linear] + [(m, "badam") for m in (*HUGGING_FACE, tiny_resnet, sequential)],
)
def test_unwrap_takes_everything_away(make, policy):
    model = make()
    first = next(model.parameters())
    first.requires_grad_(False)
    options = {"embeddings": "frozen"} | ({"biases": "frozen"} if policy == "frugal" else {})
    attributes = set(vars(model))
    hybridopt.wrap(model, policy, **options)
    optimizer = model.hybrid.optimizer()
    before = bits(model)
    assert model.hybrid.unwrap() is model
    assert set(vars(model)) == attributes
    assert [p.requires_grad for p in model.parameters()] == [p is not first for p in model.parameters()]
    assert not any(p._post_accumulate_grad_hooks or p._backward_hooks for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert equal(bits(model), before)
    loss_of(model).backward()
    optimizer.step()
    hybridopt.wrap(model, "adamw")


def test_freezing_by_policy_is_undone_by_a_new_wrap_only():
    model = hybridopt.wrap(tiny_bert(), biases="frozen")
    assert all(p.requires_grad for p in model.parameters())
    for _ in range(2):
        model.hybrid.optimizer()
        tags = model.hybrid.tags
        assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
            n for n, tag in tags.items() if tag == "frozen"
        }
        assert "bert.pooler.dense.bias" in tags and tags["bert.pooler.dense.bias"] == "frozen"


@pytest.mark.parametrize("options", [{"lr": -1}, {"nonfinite": "maybe"}, {"weight_decay": float("nan")}])
def test_a_refused_optimizer_freezes_nothing(options):
    model = hybridopt.wrap(tiny_bert(), biases="frozen")
    with pytest.raises(hybridopt.HybridOptError):
        model.hybrid.optimizer(**options)
    assert all(p.requires_grad for p in model.parameters())


def test_nothing_is_kept_alive():
    model = hybridopt.wrap(tiny_llama(), "badam")
    optimizer = train(model)
    gone = [weakref.ref(x) for x in (model, model.hybrid, optimizer, model.model.layers[0].mlp.up_proj.weight)]
    loss_of(model).backward()
    del model
    gc.collect()
    assert gone[0]() is None and gone[1]() is None and gone[2]() is optimizer
    del optimizer
    gc.collect()
    assert all(ref() is None for ref in gone)


def test_an_optimizer_goes_before_its_model():
    model = hybridopt.wrap(tiny_llama(), "badam")
    gone = weakref.ref(train(model))
    gc.collect()
    assert gone() is None
    loss_of(model).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad)


def test_lora_in_wrap_gives_pefts_own_model():
    model = tiny_llama()
    wrapped = hybridopt.wrap(model, peft_config=LoraConfig(r=4, target_modules="all-linear"))
    assert type(wrapped).__name__ == "PeftModel" and wrapped.get_base_model() is model
    assert "hybrid" in vars(wrapped) and "hybrid" not in vars(model)
