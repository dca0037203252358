import copy
import json
import subprocess
import sys
import warnings

import peft
import pytest
import torch
from models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_resnet, tiny_vit
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hybridopt.errors import HybridOptError
from hybridopt.integrations import bitsandbytes as quantization
from hybridopt.integrations import peft as adapters

MODELS = (tiny_llama, tiny_moe, tiny_gpt2, tiny_bert, tiny_vit, tiny_resnet, tiny_lstm)
LINEAR = {"target_modules": "all-linear"}
QUERY = {"target_modules": ["q_proj", "v_proj"]}


def lora(**options):
    return LoraConfig(**{"r": 4, **QUERY, **options})


def values(model):
    tensors = {name: (id(p), p._version, p.requires_grad, p.device) for name, p in model.named_parameters()}
    modules = [(name, id(module), type(module), module.training) for name, module in model.named_modules()]
    return tensors, modules, sorted(vars(model)), torch.get_rng_state().tolist()


def trained(model, seed=0):
    """Every trainable parameter moved, as training would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=random) / 10)
    return model


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


def quantized(model, scheme):
    if scheme:
        quantization.quantize_(model, scheme, quantization.check(model, scheme, ["lm_head"]))
    return model


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# The dry run


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        LINEAR,
        {**LINEAR, "use_rslora": True, "bias": "all"},
        {**LINEAR, "init_lora_weights": "gaussian", "lora_dropout": 0.0},
        {"target_modules": r"(.*\.)?(q_proj|query|c_attn|fc|out)"},
        {"target_modules": ["q_proj", "query", "c_attn", "fc", "out"], "exclude_modules": ["nothing"]},
    ],
)
def test_the_dry_run_finds_what_attach_targets_and_changes_nothing(build, options):
    model, config = build(), lora(**options)
    before, text = values(model), repr(config)
    names = adapters.check(model, config)
    assert names
    assert values(model) == before and repr(config) == text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's on Conv1D and unused exclude_modules
        attached = adapters.attach(model, config)
    assert repr(config) == text
    assert names == attached.base_model.targeted_module_names + attached.base_model.targeted_parameter_names
    assert trainable(attached) and attached.get_base_model() is model


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"layers_to_transform": [1], "target_modules": ["q_proj"]}, ["model.layers.1.self_attn.q_proj"]),
        ({"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0.*"}, ["model.layers.1.self_attn.q_proj"]),
        ({"target_modules": ["embed_tokens"]}, ["model.embed_tokens"]),
        ({"target_modules": ["lm_head"], "rank_pattern": {"lm_head": 2}}, ["lm_head"]),
    ],
)
def test_the_dry_run_follows_pefts_rules_and_keeps_the_random_state(options, names):
    model = tiny_llama()
    before = values(model)  # adapters of embeddings draw numbers even without memory
    assert adapters.check(model, lora(**options)) == names
    assert values(model) == before


def test_tensors_that_are_no_parameters_do_not_hinder_the_copy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers its parametrization, which keeps no such tensor
        normed = nn.utils.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(normed, nn.Linear(8, 8))
    model(torch.ones(1, 8))  # leaves a result of autograd in normed.weight
    assert adapters.check(model, lora(target_modules=["1"])) == ["1"]


def test_expert_parameters_are_found():
    config = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])
    names = [f"model.layers.{layer}.mlp.experts.gate_up_proj" for layer in (0, 1)]
    assert adapters.check(tiny_moe(), config) == names


@pytest.mark.parametrize("scheme", [None, "nf4", "int8"])
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_moe])
def test_the_preview_has_the_names_and_shapes_of_the_real_thing_and_no_memory(scheme, build):
    model = quantized(build(), scheme)
    config = LoraConfig(r=4, **LINEAR)
    before = values(model)
    preview = adapters.preview(model, config, "first")
    assert values(model) == before
    assert all(tensor.is_meta for tensor in (*preview.parameters(), *preview.buffers()))
    expected = {name: p.shape for name, p in preview.named_parameters() if p.requires_grad}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attached = adapters.attach(model, config, "first")
    assert expected == {name: p.shape for name, p in attached.named_parameters() if p.requires_grad}
    assert preview.state_dict().keys() <= attached.state_dict().keys()  # the rest: quantization constants


def test_a_tied_model_stays_tied_in_the_preview():
    preview = adapters.preview(tiny_llama(tie=True), lora()).get_base_model()
    assert preview.lm_head.weight is preview.model.embed_tokens.weight


def test_modules_that_train_as_a_whole_are_named():
    assert adapters.kept_modules(tiny_llama(), lora()) == []
    assert adapters.kept_modules(tiny_llama(), lora(modules_to_save=["lm_head"])) == ["lm_head"]
    assert adapters.kept_modules(tiny_bert(), lora(target_modules=["query"], task_type="SEQ_CLS")) == ["classifier"]


@pytest.mark.parametrize(
    ("build", "config", "text"),
    [
        (tiny_llama, {"r": 4}, "is no PEFT config; take for example peft.LoraConfig"),
        (tiny_llama, "lora", "peft_config='lora' is no PEFT config"),
        (
            tiny_llama,
            lora(target_modules=["q_porj"]),
            r"q_porj.*linear layers are model\.layers\.0\.self_attn\.q_proj",
        ),
        (tiny_llama, lora(target_modules=".*nothing"), "target_modules='.*nothing'.*not found.*all-linear"),
        (tiny_llama, lora(**LINEAR, exclude_modules=".*"), "excluded.*its linear layers are"),
        (tiny_llama, lora(layers_to_transform=[7]), "layers_to_transform"),
        (tiny_resnet, lora(target_modules=["q_proj"]), "on ResNet: .*its linear layers are fc; target_modules"),
        (tiny_llama, lora(modules_to_save=["score"]), "modules_to_save: the model has no module 'score'"),
        (lambda: nn.Conv2d(1, 1, 1), lora(), "its linear layers are none"),
        (tiny_resnet, lora(**LINEAR, task_type="CAUSAL_LM"), "prepare_inputs_for_generation"),
        (tiny_llama, lora(init_lora_weights="pissa_niter_4"), "'pissa_niter_4'.*random.*allowed here are True, False"),
        (tiny_moe, LoraConfig(r=4, **LINEAR, init_lora_weights="olora"), "'olora'.*no linear layer"),
        (tiny_llama, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), "prompt learning"),
        (lambda: adapters.attach(tiny_llama(), lora()), lora(), "already has adapters.*model.add_adapter"),
        (lambda: adapters.attach(tiny_llama(), lora()).get_base_model(), lora(), "already has adapters"),
    ],
)
def test_refusals_name_the_cause_and_change_nothing(build, config, text):
    model = build()
    before = values(model)
    with pytest.raises(HybridOptError, match=text):
        adapters.check(model, config)
    assert values(model) == before


@pytest.mark.parametrize("name", ["", "a.b", "../out", "a\\b", 3, "q_proj", "lora_A", "weight", "layers"])
def test_adapter_names_that_break_saving_are_refused(name):
    with pytest.raises(HybridOptError, match="adapter_name="):
        adapters.check(tiny_llama(), lora(), name)


def test_pefts_mistake_with_such_names_is_still_there():
    model = adapters.attach(tiny_llama(), lora())
    model.add_adapter("layers", lora())
    state = peft.get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    assert sum("lora_A" in name for name in state) != 4
    with pytest.raises(HybridOptError, match="adapter_name='layers' is also the name of a module"):
        adapters.save_adapters(model, "never")


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", "mica"])
def test_starts_that_read_the_weights_need_full_precision_and_load_again(init, tmp_path):
    config = lora(init_lora_weights=init)
    with pytest.raises(HybridOptError, match=f"init_lora_weights='{init}': it reads full-precision"):
        adapters.check(tiny_llama(), config, quantization="nf4")
    with pytest.raises(HybridOptError, match=f"init_lora_weights='{init}': it reads full-precision"):
        adapters.check(quantized(tiny_llama(), "nf4"), config)
    assert adapters.check(tiny_llama(), config)
    model = trained(adapters.attach(tiny_llama(), config))
    adapters.save_adapters(model, tmp_path)
    torch.testing.assert_close(logits(adapters.load_adapters(tiny_llama(), tmp_path, ["default"])), logits(model))


def test_dora_on_int8_is_refused_on_cpus_because_it_still_fails_there():
    config = lora(use_dora=True)
    with pytest.raises(HybridOptError, match="use_dora=True with int8 .* take quantization='nf4'"):
        adapters.check(tiny_llama(), config, quantization="int8")
    model = quantized(tiny_llama(), "int8")
    with pytest.raises(HybridOptError, match="use_dora=True with int8"):
        adapters.check(model, config)
    assert adapters.check(tiny_llama().to("meta"), config, quantization="int8")
    model = adapters.attach(model, config)
    model(**batch(model))
    with pytest.raises(AttributeError, match="NoneType"):  # once this passes, drop the refusal
        model(**batch(model))


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_quantized_modules_cannot_train_as_a_whole(storage, tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=storage)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
    assert adapters.check(model, lora(modules_to_save=["lm_head"]))
    with pytest.raises(HybridOptError, match=r"modules_to_save: model.layers.0.self_attn.o_proj is quantized"):
        adapters.check(model, lora(modules_to_save=["o_proj"]))


# What is attached


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
CELLS.remove(({"use_dora": True}, "int8"))  # refused: see above


@pytest.mark.parametrize(("options", "scheme"), CELLS)
def test_every_kind_trains_saves_and_loads(options, scheme, tmp_path):
    config = lora(**options)

    def base():
        return quantized(tiny_llama(attention_bias=True), scheme)

    fresh = tiny_llama(attention_bias=True)
    assert adapters.check(fresh, config, quantization=scheme) == adapters.check(base(), config)
    model = adapters.attach(base(), config)
    model(**batch(model)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trainable(model)
    trained(model)
    files = adapters.save_adapters(model, tmp_path)
    assert sorted(files) == sorted(p.name for p in tmp_path.iterdir())
    assert adapters.saved_tensor_names(model, tmp_path) == trainable(model)
    again = adapters.load_adapters(base(), tmp_path, ["default"])
    assert trainable(again) == trainable(model)
    assert equal(again.state_dict(), model.state_dict())
    assert torch.equal(logits(again), logits(model))


def test_the_file_is_the_one_that_peft_reads(tmp_path):
    model = trained(adapters.attach(tiny_llama(), lora(modules_to_save=["lm_head"])))
    adapters.save_adapters(model, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_base_embeddings_are_not_written(tmp_path):
    model = adapters.attach(tiny_llama(), lora(target_modules=["embed_tokens", "q_proj"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapters.save_adapters(model, tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert names and all("lora_" in name for name in names)


def test_biases_and_copies_belong_to_the_file_and_other_base_tensors_do_not(tmp_path):
    config = lora(bias="all", modules_to_save=["lm_head"])
    model = adapters.attach(tiny_llama(attention_bias=True), config)
    adapters.save_adapters(model, tmp_path)
    names = adapters.saved_tensor_names(model, tmp_path)
    prefix = "base_model.model."
    assert f"{prefix}lm_head.modules_to_save.default.weight" in names
    assert f"{prefix}model.layers.0.self_attn.o_proj.bias" in names
    assert f"{prefix}model.layers.0.self_attn.q_proj.base_layer.bias" in names
    assert f"{prefix}lm_head.original_module.weight" not in names
    assert not any("norm" in name or "embed" in name for name in names)


def test_only_what_the_file_really_holds_counts(tmp_path):
    model = adapters.attach(tiny_llama(), lora())
    adapters.save_adapters(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    gone = sorted(tensors)[0]
    del tensors[gone]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    names = adapters.saved_tensor_names(model, tmp_path)
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
    assert adapters.adapter_names(model) == ["default", "second", "third"]
    assert adapters.active_adapters(model) == active
    files = adapters.save_adapters(model, tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(files) == found and "second/adapter_model.safetensors" in files
    again = adapters.load_adapters(tiny_llama(), tmp_path, adapters.adapter_names(model), active=active)
    assert adapters.adapter_names(again) == adapters.adapter_names(model)
    assert adapters.active_adapters(again) == active
    assert trainable(again) == trainable(model)
    assert equal(again.state_dict(), model.state_dict())
    assert torch.equal(logits(again), logits(model))
    every = {name for name in model.state_dict() if "lora_" in name or "modules_to_save" in name}
    assert adapters.saved_tensor_names(model, tmp_path) == every


def test_two_adapters_can_be_active_together(tmp_path):
    model = several()
    model.base_model.set_adapter(["default", "third"])
    adapters.save_adapters(model, tmp_path)
    both = adapters.load_adapters(tiny_llama(), tmp_path, ["default", "second", "third"], active=["default", "third"])
    assert adapters.active_adapters(both) == ["default", "third"]
    assert trainable(both) == trainable(model)
    assert torch.equal(logits(both), logits(model))
    assert adapters.active_adapters(adapters.load_adapters(tiny_llama(), tmp_path, ["third"])) == ["third"]


def test_loading_for_inference_freezes_everything(tmp_path):
    model = several()
    adapters.save_adapters(model, tmp_path)
    again = adapters.load_adapters(
        tiny_llama(), tmp_path, ["default", "second"], is_trainable=False, active=["second"]
    )
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
    adapters.save_adapters(adapters.attach(tiny_llama(), lora()), tmp_path)
    damage(tmp_path)
    base = tiny_llama()
    before = values(base)
    with pytest.raises(HybridOptError, match=text):
        adapters.load_adapters(base, tmp_path, ["default"])
    assert values(base) == before


def test_a_base_of_another_size_or_with_adapters_is_refused(tmp_path):
    adapters.save_adapters(adapters.attach(tiny_llama(), lora()), tmp_path)
    with pytest.raises(HybridOptError, match="load it onto the base that it was trained on"):
        adapters.load_adapters(tiny_llama(hidden=32), tmp_path, ["default"])
    with pytest.raises(HybridOptError, match="already has adapters"):
        adapters.load_adapters(adapters.attach(tiny_llama(), lora()), tmp_path, ["default"])
    for names, active in (([], []), (["default"], ["other"])):
        with pytest.raises(HybridOptError, match="must be among the adapters named"):
            adapters.load_adapters(tiny_llama(), tmp_path, names, active=active)


def test_plain_models_have_no_adapters_and_asking_does_not_import_peft():
    model = tiny_llama()
    assert not adapters.is_peft_model(model) and adapters.is_peft_model(adapters.attach(copy.deepcopy(model), lora()))
    assert adapters.adapter_names(model) == adapters.active_adapters(model) == []
    code = (
        "import sys, torch; from hybridopt.integrations import peft as a; m = torch.nn.Linear(4, 4);"
        "assert not a.is_peft_model(m) and a.adapter_names(m) == [];"
        "assert not {'bitsandbytes', 'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
