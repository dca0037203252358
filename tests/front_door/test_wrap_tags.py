"""Tags follow the live model: places, tied weights, LoRA added or switched after `wrap`; and the report counts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.model.roles import params
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet

LORA = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
TAGS = {"full": "state-full", "split": "split", "free": "state-free", "frozen": "frozen"}
PLACES = {"embeddings": "embedding", "norms": "norm", "biases": "bias", "head": "head", "adapters": "adapter"}


def train(model, optimizer, steps=1):
    for _ in range(steps):
        model(**batch(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trained(optimizer):
    return {name for group in optimizer.param_groups for name in group["param_names"]}


def state_bytes(optimizer, names):
    named = {n: p for g in optimizer.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)}
    states = (optimizer.state.get(named[n], {}) for n in names if n in named)
    return sum(x.nbytes for state in states for x in state.values() if isinstance(x, torch.Tensor))


def weights_bytes(model, names):
    """Bytes of values or codes and of the constants of quantized layers, each memory once."""
    found = {}
    for name, p in model.named_parameters():
        if name in names:
            state = getattr(p, "quant_state", None)
            second = getattr(state, "state2", None)
            owner = model.get_submodule(name.rpartition(".")[0])
            constants = [getattr(getattr(owner, "state", None), "SCB", None)]  # int8: there after a forward pass
            constants += [getattr(s, key) for s in (state, second) if s for key in ("absmax", "code", "offset")]
            found |= {t.data_ptr(): t.nbytes for t in (p, *constants) if isinstance(t, torch.Tensor)}
    return sum(found.values())


@pytest.mark.parametrize(
    ("option", "where"), [(o, w) for o in PLACES for w in TAGS if (o, w) != ("adapters", "frozen")]
)
@pytest.mark.filterwarnings("ignore::hybridopt.HybridOptWarning")
def test_places(option, where):
    model = hybridopt.wrap(tiny_bert(), **{option: where}, **adapters(option))
    if option != "adapters":
        unfreeze(model)
    roles = {p.name: p.role for p in params(model)}
    tags = model.hybrid.tags
    ours = [n for n, role in roles.items() if role == PLACES[option]]
    assert ours and {tags[n] for n in ours} == {TAGS[where]}
    optimizer = model.hybrid.optimizer(lr=1e-2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, optimizer)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert (set(ours) & moved == set()) if where == "frozen" else (set(ours) <= moved | {n for n in ours if "_A" in n})
    assert (state_bytes(optimizer, ours) > 0) == (where in ("full", "split"))


def adapters(option):
    return {"peft_config": LoraConfig(r=4, target_modules=["query", "dense"])} if option == "adapters" else {}


def unfreeze(model):
    for p in model.parameters():
        p.requires_grad_(True)


def test_frozen_adapters_are_refused_where_nothing_else_trains():
    with pytest.raises(HybridOptError, match="nothing to train"):
        hybridopt.wrap(tiny_bert(), adapters="frozen", **adapters("adapters"))


def test_a_place_that_is_none_is_named():
    with pytest.raises(HybridOptError, match="head='fulll'|policy: head.*full, split|did you mean 'full'"):
        hybridopt.wrap(tiny_bert(), head="fulll")


def test_tied_weights_are_one_output_layer():
    for make in (lambda: tiny_llama(tie=True), tiny_gpt2):
        model = hybridopt.wrap(make(), embeddings="frozen", head="full")
        names = [n for n, _ in model.named_parameters() if "embed_tokens" in n or "wte" in n]
        tags = model.hybrid.tags
        assert len(names) == 1 and tags[names[0]] == "state-full" and "lm_head.weight" not in tags
        rows = {row.role: row for row in model.hybrid.report().rows}
        assert rows["head"].tensors == 1
        optimizer = model.hybrid.optimizer(lr=1e-2)
        train(model, optimizer)
        assert sum(g["param_names"].count(names[0]) for g in optimizer.param_groups) == 1
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_state_free_head_is_warned_about():
    with pytest.warns(HybridOptWarning, match='output layer .*is state-free.*head="full"'):
        hybridopt.wrap(tiny_llama(), head="free")
    with pytest.warns(HybridOptWarning, match="output layer"):
        hybridopt.wrap(tiny_llama(tie=True), "signsgd")


@pytest.mark.filterwarnings("error::hybridopt.HybridOptWarning")
def test_no_warning_without_a_state_free_head():
    hybridopt.wrap(tiny_llama(), "signsgd", head="full")
    hybridopt.wrap(tiny_llama())


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_report_counts_real_tensors(quantization, lora, dtype):
    model = tiny_llama().to(dtype)
    model = hybridopt.wrap(model, density=0.3, update_gap=2, quantization=quantization, peft_config=lora)
    optimizer = model.hybrid.optimizer(lr=1e-3)
    train(model, optimizer)
    report = model.hybrid.report()
    live = {n: p for n, p in model.named_parameters()}
    roles, tags = {p.name: p for p in params(model)}, model.hybrid.tags
    assert set(tags) == set(live)
    for row in report.rows:
        names = [n for n in live if (tags[n], roles[n].role) == (row.tag, row.role)]
        assert row.tensors == len(names)
        assert row.parameters == sum(torch.Size(roles[n].shape).numel() for n in names)
        assert row.weight_bytes == weights_bytes(model, names)
        assert row.grad_bytes == sum(live[n].nbytes for n in names if tags[n] != "frozen")
        assert row.state_bytes == state_bytes(optimizer, names)
    assert report.totals.tensors == len(live) == sum(row.tensors for row in report.rows)
    assert report.totals.weight_bytes == weights_bytes(model, live)
    assert report.totals.state_bytes == sum(row.state_bytes for row in report.rows) == state_bytes(optimizer, live)
    added = sum(p.numel() for n, p in live.items() if "lora_" in n)
    assert report.totals.parameters == sum(p.numel() for p in tiny_llama().parameters()) + added
    text = str(report).splitlines()
    said = [line for line in text if "stay" in line]  # what of a quantized base is in floats, of so small a model much
    assert len(text) == len(report.rows) + 4 + len(said) and bool(said) == (quantization is not None)
    assert f"{report.totals.parameters:,}" in text[-1 - len(said)]
    assert all(row.tag in line and row.role in line for row, line in zip(report.rows, text[2:], strict=False))


def test_gradients_in_the_report_are_those_of_the_backward_pass():
    model = hybridopt.wrap(tiny_resnet(), norms="frozen")
    model.hybrid.optimizer()
    model(**batch(model)).loss.backward()
    real = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert model.hybrid.report().totals.grad_bytes == real


def test_the_report_as_plain_data():
    report = hybridopt.wrap(tiny_llama()).hybrid.report()
    data = report.as_dict()
    assert data["totals"]["parameters"] == sum(p.numel() for p in tiny_llama().parameters())
    assert [row["tag"] for row in data["rows"]] == [row.tag for row in report.rows]


def test_tags_are_resolved_when_asked_for():
    model = hybridopt.wrap(tiny_llama())
    model.model.norm.weight.requires_grad_(False)
    assert model.hybrid.tags["model.norm.weight"] == "frozen"
    model.model.norm.weight.requires_grad_(True)
    model.lm_head = nn.Linear(model.config.hidden_size, 96)
    tags = model.hybrid.tags
    assert tags["model.norm.weight"] == tags["lm_head.bias"] == "state-full"
    with pytest.raises(HybridOptError, match=r"'lm_head.bias' is only here.*unwrap\(\), then wrap"):
        model.hybrid.optimizer()
    model = hybridopt.wrap(model.hybrid.unwrap())
    assert "lm_head.bias" in trained(model.hybrid.optimizer())


def test_lora_added_after_wrap(tmp_path):
    base = hybridopt.wrap(tiny_llama(), density=0.5, seed=4)
    strategy = base.hybrid
    model = get_peft_model(base, LORA)
    inner = {n for n, tag in base.hybrid.tags.items() if tag != "frozen"}
    assert len(inner) == 8 and all("lora_" in n for n in inner)
    assert {r.role for r in base.hybrid.report().rows if r.tag == "split"} == {"adapter"}
    optimizer = base.hybrid.optimizer(lr=1e-2)
    assert trained(optimizer) == inner
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, optimizer, 2)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"base_model.model." + n for n in inner}

    base.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert type(again) is type(base) and torch.equal(again(**batch(again)).logits, model(**batch(model)).logits)
    assert hybridopt.wrap(model, strategy.policy, seed=4) is model
    assert "hybrid" not in vars(base) and model.hybrid.base == strategy.base
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(again(**batch(again)).logits, model(**batch(model)).logits)


def test_adopting_keeps_what_training_changed_before_lora_came(tmp_path):
    base = hybridopt.wrap(tiny_llama())
    train(base, base.hybrid.optimizer(lr=1e-2))
    model = hybridopt.wrap(get_peft_model(base, LORA))
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(again(**batch(again)).logits, model(**batch(model)).logits)


def test_switching_adapters():
    model = hybridopt.wrap(tiny_llama(), peft_config=LORA)
    first = model.hybrid.optimizer(lr=1e-2)
    model.add_adapter("second", LORA)
    train(model, first)
    assert all(".default." in n for n in trained(first))
    model.set_adapter("second")
    frozen = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(**batch(model)).loss.backward()
    with pytest.raises(HybridOptError, match=r"nothing to train any more.*lora_A.default.*model.hybrid.optimizer\(\)"):
        first.step()
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters())
    model.zero_grad()
    second = model.hybrid.optimizer(lr=1e-2)
    assert trained(second) == {n.replace(".default.", ".second.") for n in trained(first)}
    train(model, second)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, frozen[n])}
    assert moved and moved <= trained(second)
    model.set_adapter("default")
    train(model, first)
    assert {".default." in n for n, tag in model.hybrid.tags.items() if tag != "frozen"} == {True}


def test_switching_adapters_while_others_train_on_warns():
    model = hybridopt.wrap(tiny_llama(), peft_config=LORA)
    model.base_model.model.model.norm.weight.requires_grad_(True)
    model.add_adapter("second", LORA)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    train(model, optimizer)
    model.set_adapter("second")
    model(**batch(model)).loss.backward()
    with pytest.warns(HybridOptWarning, match=r"lora_A.default.*make a new optimizer") as caught:
        optimizer.step()
    assert caught[0].filename == __file__


def test_a_step_without_gradients_is_still_nothing_while_one_may_come():
    model = hybridopt.wrap(tiny_llama())
    optimizer = model.hybrid.optimizer()
    optimizer.step()
    assert {g["step"] for g in optimizer.param_groups} == {0}
    plain = hybridopt.HybridOptimizer([torch.zeros(3)], lr=0.1)
    plain.step()


def test_a_module_that_is_trained_as_a_whole_stays_the_output_layer():
    config = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["classifier"])
    model = hybridopt.wrap(tiny_bert(), peft_config=config)
    tags = {n: tag for n, tag in model.hybrid.tags.items() if "modules_to_save" in n}
    assert set(tags.values()) == {"state-full"} and len(tags) == 2
    assert {p.role for p in params(model) if p.name in tags} == {"head", "bias"}


def test_what_is_shown_of_it_is_short():
    model = hybridopt.wrap(nn.Sequential(*(nn.Linear(4, 4) for _ in range(50))), policy="adamw", seed=3)
    assert repr(model.hybrid.resolved()) == "Plan(100 state-full; seed=3)"
    assert repr(model.hybrid).startswith("Strategy(Sequential, AdamWPolicy(betas=(0.9, 0.999), ")
    assert repr(model.hybrid).endswith("embeddings_lr_scale=1.0), seed=3)")
