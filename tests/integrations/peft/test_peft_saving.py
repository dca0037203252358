import copy
import json
import subprocess
import sys
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from hybridopt.core.errors import HybridOptError
from hybridopt.core.registry import make
from hybridopt.model.quantization.scheme_names import named
from support.adapted import based, equal, logits, lora, trainable, trained, values
from support.models import batch, tiny_llama

adapters = make("adapters", "peft")
KINDS = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    {"modules_to_save": ["lm_head"]},
    {"bias": "all"},
    {"trainable_token_indices": [3, 5]},
    {"target_modules": ["embed_tokens", "q_proj"]},
]
CELLS = [(options, scheme) for options in KINDS for scheme in (None, "nf4", "fp4", "int8")]
CELLS.remove(({"use_dora": True}, "int8"))  # refused by the dry run


@pytest.mark.parametrize(("options", "scheme"), CELLS)
def test_every_kind_trains_saves_and_loads(options, scheme, tmp_path):
    config = lora(**options)

    def base():
        return based(tiny_llama(attention_bias=True), scheme)

    fresh = tiny_llama(attention_bias=True)
    assert adapters.check(fresh, config, scheme=scheme and named(scheme, "test")) == adapters.check(base(), config)
    model = adapters.attach(base(), config)
    model(**batch(model)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trainable(model)
    trained(model)
    files = adapters.save(model, tmp_path)
    assert sorted(files) == sorted(p.name for p in tmp_path.iterdir())
    assert adapters.saved_names(model, tmp_path) == trainable(model)
    again = adapters.load(base(), tmp_path, ["default"])
    assert trainable(again) == trainable(model)
    assert equal(again.state_dict(), model.state_dict())
    assert torch.equal(logits(again), logits(model))


def test_the_file_is_the_one_that_peft_reads(tmp_path):
    model = trained(adapters.attach(tiny_llama(), lora(modules_to_save=["lm_head"])))
    adapters.save(model, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_base_embeddings_are_not_written(tmp_path):
    model = adapters.attach(tiny_llama(), lora(target_modules=["embed_tokens", "q_proj"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapters.save(model, tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert names and all("lora_" in name for name in names)


def test_biases_and_copies_belong_to_the_file_and_other_base_tensors_do_not(tmp_path):
    config = lora(bias="all", modules_to_save=["lm_head"])
    model = adapters.attach(tiny_llama(attention_bias=True), config)
    adapters.save(model, tmp_path)
    names = adapters.saved_names(model, tmp_path)
    prefix = "base_model.model."
    assert f"{prefix}lm_head.modules_to_save.default.weight" in names
    assert f"{prefix}model.layers.0.self_attn.o_proj.bias" in names
    assert f"{prefix}model.layers.0.self_attn.q_proj.base_layer.bias" in names
    assert f"{prefix}lm_head.original_module.weight" not in names
    assert not any("norm" in name or "embed" in name for name in names)


def test_only_what_the_file_really_holds_counts(tmp_path):
    model = adapters.attach(tiny_llama(), lora())
    adapters.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    gone = sorted(tensors)[0]
    del tensors[gone]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    names = adapters.saved_names(model, tmp_path)
    assert trainable(model) - names == {gone.replace(".weight", ".default.weight")}


def several():
    model = adapters.attach(tiny_llama(), lora())
    model.add_adapter("second", lora(r=2, use_dora=True, modules_to_save=["lm_head"]))
    model.add_adapter("third", lora(target_modules=["k_proj"]))
    for seed, name in enumerate(("default", "second", "third")):
        model.set_adapter(name)
        trained(model, seed)
    return model


@pytest.mark.parametrize("active", [["default"], ["second"], ["third"]])
def test_several_adapters_come_back_with_the_right_one_active(active, tmp_path):
    model = several()
    model.set_adapter(active[0])
    assert adapters.names(model) == ["default", "second", "third"]
    assert adapters.active(model) == active
    files = adapters.save(model, tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(files) == found and "second/adapter_model.safetensors" in files
    again = adapters.load(tiny_llama(), tmp_path, adapters.names(model), active=active)
    assert adapters.names(again) == adapters.names(model)
    assert adapters.active(again) == active
    assert trainable(again) == trainable(model)
    assert equal(again.state_dict(), model.state_dict())
    assert torch.equal(logits(again), logits(model))
    every = {name for name in model.state_dict() if "lora_" in name or "modules_to_save" in name}
    assert adapters.saved_names(model, tmp_path) == every


def test_two_adapters_can_be_active_together(tmp_path):
    model = several()
    model.base_model.set_adapter(["default", "third"])
    adapters.save(model, tmp_path)
    both = adapters.load(tiny_llama(), tmp_path, ["default", "second", "third"], active=["default", "third"])
    assert adapters.active(both) == ["default", "third"]
    assert trainable(both) == trainable(model)
    assert torch.equal(logits(both), logits(model))
    assert adapters.active(adapters.load(tiny_llama(), tmp_path, ["third"])) == ["third"]


def test_loading_for_inference_freezes_everything(tmp_path):
    model = several()
    adapters.save(model, tmp_path)
    again = adapters.load(tiny_llama(), tmp_path, ["default", "second"], is_trainable=False, active=["second"])
    assert not trainable(again)
    model.set_adapter("second")
    assert torch.equal(logits(again), logits(model))


def missing_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def missing_config(folder):
    (folder / "adapter_config.json").unlink()


def wrong_rank(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))


def lost_tensor(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(dict(sorted(tensors.items())[1:]), folder / "adapter_model.safetensors")


def foreign_tensor(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "other": torch.ones(1)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (missing_weights, "adapter 'default': .* has no adapter_model.safetensors"),
        (missing_config, "adapter 'default': .* has no adapter_config.json"),
        (wrong_rank, r"lora_A.weight has shape \[4, 64\] in .* and \[8, 64\] in this model"),
        (lost_tensor, r"has shape None in .* and \[4, 64\] in this model"),
        (foreign_tensor, r"other has shape \[1\] in .* and None in this model"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_the_base_changes(damage, text, tmp_path):
    adapters.save(adapters.attach(tiny_llama(), lora()), tmp_path)
    damage(tmp_path)
    base = tiny_llama()
    before = values(base)
    with pytest.raises(HybridOptError, match=text):
        adapters.load(base, tmp_path, ["default"])
    assert values(base) == before


def test_a_base_of_another_size_or_with_adapters_is_refused(tmp_path):
    adapters.save(adapters.attach(tiny_llama(), lora()), tmp_path)
    with pytest.raises(HybridOptError, match="load it onto the base that it was trained on"):
        adapters.load(tiny_llama(hidden=32), tmp_path, ["default"])
    with pytest.raises(HybridOptError, match="already has adapters"):
        adapters.load(adapters.attach(tiny_llama(), lora()), tmp_path, ["default"])
    for names, active in (([], []), (["default"], ["other"])):
        with pytest.raises(HybridOptError, match="must be among the adapters named"):
            adapters.load(tiny_llama(), tmp_path, names, active=active)


def test_plain_models_have_no_adapters_and_asking_does_not_import_peft():
    model = tiny_llama()
    assert not adapters.owns(model) and adapters.owns(adapters.attach(copy.deepcopy(model), lora()))
    assert adapters.names(model) == adapters.active(model) == []
    code = (
        "import sys, torch; from hybridopt.core.registry import make; m = torch.nn.Linear(4, 4);"
        "a = make('adapters', 'peft'); assert not a.owns(m) and a.names(m) == [] and a.base(m) is m;"
        "assert not {'bitsandbytes', 'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
