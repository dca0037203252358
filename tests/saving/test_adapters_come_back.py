"""Adapters come back in the dtype, with the gradients, in the order and in the kind of model that was saved."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving import manifest
from support.models import batch, tiny_bert, tiny_llama
from support.saved import bf16_llama, different, logits, refused

QV = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def lora(**options):
    return LoraConfig(**QV | options)


def train(model, optimizer, first=0, count=3):
    model.train()
    losses = []
    for step in range(first, first + count):
        loss = model(**batch(model, seed=step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def comes_back(model, base, folder, trainable=None):
    """Train, save and load; all must be equal, and both go on alike. Returns the loaded one, its first answers."""
    optimizer = model.hybrid.optimizer(lr=1e-2)
    train(model, optimizer)
    model.hybrid.save_pretrained(folder)
    state = copy.deepcopy(optimizer.state_dict())
    again = hybridopt.from_pretrained(base(), folder)
    there, back = dict(model.named_parameters()), dict(again.named_parameters())
    assert not different(there, back) and list(there) == list(back)
    flags = {n for n, p in there.items() if p.requires_grad}
    assert flags == {n for n, p in back.items() if p.requires_grad}
    assert trainable is None or len(flags) == trainable
    answers = logits(again)
    assert torch.equal(answers, logits(model))
    resumed = again.hybrid.optimizer(lr=1e-2)
    resumed.load_state_dict(state)
    assert train(again, resumed, 3) == train(model, optimizer, 3)
    return again, answers


def edit(folder, **changes):
    """Other values in the configuration (...: none at all), and a manifest that fits."""
    path = folder / "hybridopt_config.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    (folder / manifest.MANIFEST).unlink()
    manifest.seal(folder)


def by_to(dtype):
    return hybridopt.wrap(bf16_llama(), peft_config=lora()).to(dtype)


def by_peft():
    return hybridopt.wrap(get_peft_model(bf16_llama(), lora(), autocast_adapter_dtype=False))


MADE = {
    "to": (lambda: by_to(torch.bfloat16), bf16_llama),
    "peft": (by_peft, bf16_llama),
    "wrap": (lambda: hybridopt.wrap(bf16_llama(), peft_config=lora(), adapter_dtype="bfloat16"), bf16_llama),
    "torch": (lambda: hybridopt.wrap(tiny_llama(), peft_config=lora(), adapter_dtype=torch.bfloat16), tiny_llama),
    "dora": (
        lambda: hybridopt.wrap(tiny_llama(), peft_config=lora(use_dora=True), adapter_dtype="bfloat16"),
        tiny_llama,
    ),
    "nf4": (
        lambda: hybridopt.wrap(bf16_llama(), peft_config=lora(), quantization="nf4", adapter_dtype="bfloat16"),
        bf16_llama,
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_adapters_in_bfloat16_stay_so(name, tmp_path):
    make, base = MADE[name]
    model = make()
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.bfloat16}
    report = model.hybrid.report()
    adapters = [r for r in report.rows if r.tag != "frozen"]
    assert sum(r.weight_bytes for r in adapters) == 2 * sum(r.parameters for r in adapters)
    comes_back(model, base, tmp_path)


def test_adapters_in_other_dtypes_than_their_base_stay_so(tmp_path):
    model = hybridopt.wrap(bf16_llama(), peft_config=lora(modules_to_save=["lm_head"]))
    copied = model.base_model.model.lm_head.modules_to_save["default"]
    copied.weight.data = copied.weight.data.float() + 1e-4  # no bfloat16
    model.base_model.model.lm_head.register_forward_pre_hook(lambda m, args: (args[0].float(),))
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(bf16_llama(), tmp_path).base_model.model.lm_head.modules_to_save["default"]
    assert again.weight.dtype == torch.float32 and torch.equal(again.weight, copied.weight)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"peft_config": lora(), "adapter_dtype": "bfloat"}, "adapter_dtype='bfloat'.*did you mean 'bfloat16'"),
        ({"peft_config": lora(), "adapter_dtype": "int8"}, "adapter_dtype='int8'"),
        ({"peft_config": lora(), "adapter_dtype": torch.float64}, "adapter_dtype='float64'"),
        ({"adapter_dtype": "bfloat16"}, "adapter_dtype='bfloat16' is for adapters that are added"),
    ],
)
def test_other_dtypes_are_refused(given, text):
    with pytest.raises(HybridOptError, match=text):
        hybridopt.wrap(tiny_llama(), **given)


def old_and_new():
    model = get_peft_model(tiny_llama(), lora(), "old")
    model.add_adapter("new", lora(r=2))
    model.base_model.set_adapter(["old", "new"])
    for name, p in model.named_parameters():
        if ".old." in name:
            p.requires_grad_(False)
    return hybridopt.wrap(model)


def lora_fa():
    model = hybridopt.wrap(tiny_llama(), peft_config=lora())
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.requires_grad_(False)
    return model


def inactive_but_trained():
    model = get_peft_model(tiny_llama(), lora(), "one")
    model.add_adapter("two", lora(r=2, target_modules=["down_proj"]))
    model.base_model.set_adapter(["two"])
    for name, p in model.named_parameters():
        if ".one." in name:
            p.requires_grad_(True)
    return hybridopt.wrap(model)


def copy_frozen():
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(modules_to_save=["lm_head"]))
    for name, p in model.named_parameters():
        if "modules_to_save" in name:
            p.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "count"), [(old_and_new, 8), (lora_fa, 4), (inactive_but_trained, 12), (copy_frozen, 8)]
)
def test_what_was_frozen_by_hand_stays_frozen(make, count, tmp_path):
    comes_back(make(), tiny_llama, tmp_path, count)


def test_what_the_policy_froze_is_trained_again(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="mezo", peft_config=lora())
    model.hybrid.optimizer(lr=1e-3)
    assert not any(p.requires_grad for p in model.parameters())
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path, policy="adamw")
    assert len([p for p in again.parameters() if p.requires_grad]) == 8


def test_a_folder_without_the_key_trains_what_is_active(tmp_path):
    lora_fa().hybrid.save_pretrained(tmp_path)
    edit(tmp_path, trainable=..., injected=...)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert len([p for p in again.parameters() if p.requires_grad]) == 8


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"trainable": "lora_A"}, "'trainable' must be an array"),
        ({"trainable": [1]}, "'trainable' must be an array of strings"),
        ({"trainable": ["model.embed_tokens.weight"]}, "trainable=.*embed_tokens.*which the adapters have not"),
        ({"trainable": ["x"]}, "trainable=.'x'., which the adapters have not"),
        ({"injected": 1}, "'injected' must be"),
        ({"injected": True}, "trainable=.*which the adapters have not"),
    ],
)
def test_the_keys_are_checked(change, text, tmp_path):
    hybridopt.wrap(tiny_llama(), peft_config=lora()).hybrid.save_pretrained(tmp_path)
    edit(tmp_path, **change)
    refused(tiny_llama(), tmp_path, text)


def added_by_transformers():
    model = tiny_llama()
    model.add_adapter(lora(), "mine")
    model.add_adapter(lora(r=2, target_modules=["o_proj"]), "other")
    model.set_adapter("mine")
    return model


@pytest.mark.parametrize("before", [True, False])
def test_adapters_that_transformers_added_come_back(before, tmp_path):
    if before:
        model = hybridopt.wrap(added_by_transformers())
    else:
        model = hybridopt.wrap(tiny_llama())
        model.add_adapter(lora(), "mine")
    again, answers = comes_back(model, tiny_llama, tmp_path, 8)
    assert type(again) is type(model) and again.active_adapters() == model.active_adapters() == ["mine"]
    assert list(again.peft_config) == list(model.peft_config)
    around = PeftModel.from_pretrained(tiny_llama(), tmp_path / "mine")
    assert torch.equal(logits(around), answers)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.body(x).relu())


def test_adapters_that_were_injected_come_back(tmp_path):
    def base():
        torch.manual_seed(0)
        return Net()

    model = hybridopt.wrap(inject_adapter_in_model(LoraConfig(r=2, target_modules=["body"]), base()))
    optimizer = model.hybrid.optimizer(lr=1e-2)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(base(), tmp_path)
    assert type(again) is Net and torch.equal(again(torch.ones(2, 8)), model(torch.ones(2, 8)))
    assert again.hybrid.tags == model.hybrid.tags


def test_adapters_within_another_model_are_refused_with_the_way_round():
    outer = nn.Sequential(get_peft_model(tiny_llama(), lora()))
    with pytest.raises(HybridOptError, match="has an adapter, but Sequential is no model with adapters itself.*wrap"):
        hybridopt.wrap(outer)


def test_adapters_that_cannot_be_kept_are_refused_by_the_optimizer_before_it_is_made(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.out = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)

    model = hybridopt.wrap(Attention())
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["mix"]), model)
    with pytest.raises(HybridOptError, match="nn.MultiheadAttention.*would drift"):
        model.hybrid.optimizer(lr=1e-2)
    for make in (get_peft_model, lambda base, config: hybridopt.wrap(base, peft_config=config)):
        base = Attention()
        before = [(n, id(p)) for n, p in base.named_parameters()]
        with pytest.raises(HybridOptError, match="LoraConfig: PEFT makes .* anew.*exclude_modules"):
            hybridopt.wrap(make(base, LoraConfig(r=2, target_modules=["mix"])))
        assert make is get_peft_model or [(n, id(p)) for n, p in base.named_parameters()] == before


def test_adapters_that_are_switched_off_are_not_saved(tmp_path):
    model = hybridopt.wrap(tiny_llama(), peft_config=lora())
    with model.disable_adapter(), pytest.raises(HybridOptError, match="switched off.*enable_adapter_layers"):
        model.hybrid.save_pretrained(tmp_path / "one")
    model.hybrid.save_pretrained(tmp_path / "one")


@pytest.mark.parametrize("rslora", [False, True])
def test_a_scale_that_no_file_keeps_is_refused(rslora, tmp_path):
    patterns = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}}
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(use_rslora=rslora, **patterns))
    layers = [m for m in model.modules() if hasattr(m, "scale_layer")]
    for change in (lambda x: x.scale_layer(0.5), lambda x: x.set_scale("default", 2.0)):
        change(layers[-1])
        with pytest.raises(HybridOptError, match="'default' of '.*' counts .* times, .*unscale_layer"):
            model.hybrid.save_pretrained(tmp_path / "one")
        assert not (tmp_path / "one").exists()
        layers[-1].unscale_layer()
    model.hybrid.save_pretrained(tmp_path / "one")


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("indices", [[3, 5], {"embed_tokens": [3], "lm_head": [5]}])
def test_trainable_tokens_come_back(indices, tie, tmp_path):
    def base():
        return tiny_llama(tie=tie)

    if tie and isinstance(indices, dict):
        indices = {"embed_tokens": [3, 5]}
    model = hybridopt.wrap(base(), peft_config=lora(trainable_token_indices=indices))
    _, answers = comes_back(model, base, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path)), answers)


def test_buffers_of_copies_are_no_part_of_the_base(tmp_path):
    model = hybridopt.wrap(tiny_bert(), peft_config=LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    model.base_model.model.classifier.modules_to_save["default"].register_buffer("seen", torch.zeros(2))
    model.hybrid.optimizer(lr=1e-2)


def test_a_new_head_that_was_never_trained_is_named_with_its_cure(tmp_path):
    def base(seed):
        model = tiny_bert()
        torch.manual_seed(seed)
        model.classifier.reset_parameters()
        return model

    config = LoraConfig(r=2, target_modules=["query"])
    hybridopt.wrap(base(1), peft_config=config).hybrid.save_pretrained(tmp_path)
    why = refused(base(2), tmp_path, r"'classifier.weight' has other values.*initial values at random")
    assert "modules_to_save=['classifier']" in why
    other = base(1)
    with torch.no_grad():
        for p in other.bert.encoder.layer[0].parameters():
            p.add_(1.0)
    assert "at random" not in refused(other, tmp_path, "has other values")
