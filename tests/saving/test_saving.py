"""What `save_pretrained` writes comes back with the same logits to the last bit, and trains on."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

import hybridopt
from hybridopt import HybridOptError, Policy, Route, Treatment
from hybridopt.parts.schedules.linear import Linear
from support import quantization
from support.models import batch, tiny_llama
from support.saved import ALL_LINEAR, DELTA, SCENES, Scene, bits, different, logits, train

OWN_FILES = {"hybridopt_config.json", "hybridopt_manifest.json"}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", SCENES)
def test_round_trip(name, tmp_path):
    scene = SCENES[name]
    model = scene.wrapped()
    fresh = logits(model)
    train(model)
    expected = logits(model)
    assert not torch.equal(expected, fresh)
    first = tmp_path / "first"
    model.hybrid.save_pretrained(first)
    assert files(first) == OWN_FILES | set(scene.files)

    again = hybridopt.from_pretrained(scene.base(), first)
    assert type(again) is type(model) and "hybrid" in vars(again)
    assert torch.equal(logits(again), expected)
    assert not different(bits(again), bits(model))
    assert again.hybrid.tags == model.hybrid.tags
    assert (again.hybrid.policy, again.hybrid.seed) == (model.hybrid.policy, 2)
    assert again.hybrid.quantization == scene.wrap.get("quantization")
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }

    second = tmp_path / "second"
    again.hybrid.save_pretrained(second)
    assert files(second) == files(first)
    if DELTA[0] in scene.files:
        assert not different(load_file(second / DELTA[0]), load_file(first / DELTA[0]))
    train(model)
    train(again)
    assert not different(bits(again), bits(model))
    assert torch.equal(logits(again), logits(model)) and not torch.equal(logits(again), expected)
    again.hybrid.save_pretrained(second)
    third = hybridopt.from_pretrained(scene.base(), second)
    assert torch.equal(logits(third), logits(model))


@pytest.mark.parametrize("name", ["lora", "nf4", "fp4", "int8", "dora-nf4", "rslora", "modules-to-save", "bf16-lora"])
def test_peft_reads_the_adapter_on_an_equally_quantized_base(name, tmp_path):
    scene = SCENES[name]
    model = scene.wrapped()
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    base = scene.base()
    if scheme := scene.wrap.get("quantization"):
        names = json.loads((tmp_path / "hybridopt_config.json").read_text())["quantized"]
        quantization.quantize_(base, scheme, names)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path).train()), logits(model))


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_training_leaves_the_bits_of_the_quantized_base(scheme):
    model = SCENES[scheme].wrapped()
    before = quantization.fingerprint(model)
    for _ in range(2):
        train(model)
        logits(model)
        assert quantization.fingerprint(model) == before
    weights = {n: p for n, p in model.named_parameters() if quantization.is_frozen(p)}
    assert len(weights) == 14
    optimizer = model.hybrid.optimizer()
    model(**batch(model)).loss.backward()
    last = [p.grad for n, p in model.named_parameters() if "lora_B" in n]
    assert all(grad.abs().sum() > 0 for grad in last), "evaluation has cut the gradients"
    assert not set(weights) & {n for g in optimizer.param_groups for n in g["param_names"]}


def test_a_base_quantized_beforehand(tmp_path):
    def base():
        model = tiny_llama()
        quantization.quantize_(model, "nf4", quantization.check(model, "nf4", ["lm_head"]))
        return model

    model = hybridopt.wrap(base(), peft_config=LoraConfig(**ALL_LINEAR))
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(base(), tmp_path)), logits(model))


def test_the_active_adapter_is_remembered(tmp_path):
    model = SCENES["adapters"].wrapped()
    train(model)
    for active in ("second", "default"):
        model.set_adapter(active)
        model.hybrid.save_pretrained(tmp_path)
        again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
        assert again.active_adapter == active and list(again.peft_config) == ["default", "second", "third"]
        for name in again.peft_config:
            model.set_adapter(name)
            again.set_adapter(name)
            assert torch.equal(logits(again), logits(model))


def test_for_inference_only(tmp_path):
    model = SCENES["lora-norms"].wrapped()
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path, is_trainable=False)
    assert torch.equal(logits(again), logits(model))
    assert not any(p.requires_grad for n, p in again.named_parameters() if "lora_" in n)


def test_what_is_saved_in_between_is_kept_though_it_trains_no_more(tmp_path):
    model = SCENES["lora-norms"].wrapped()
    train(model)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.requires_grad_(False)
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_changes_by_hand_are_saved_too(tmp_path):
    model = SCENES["lora"].wrapped()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.mul_(1.5)
    model.hybrid.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / DELTA[0])) == ["base_model.model.model.norm.weight"]
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_nothing_trained_saves_nothing_changed(tmp_path):
    model = SCENES["full"].wrapped()
    model.hybrid.save_pretrained(tmp_path)
    assert DELTA[0] not in files(tmp_path)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), logits(tiny_llama()))


def test_foreign_files_stay_and_old_ones_of_ours_go(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "README.md").write_text("mine, too")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log").write_text("also mine")
    for name in ("adapters", "lora-norms", "full"):
        model = SCENES[name].wrapped()
        train(model, 1)
        model.hybrid.save_pretrained(tmp_path)
        foreign = {"notes.txt", "README.md", "runs/log"}
        assert files(tmp_path) == foreign | OWN_FILES | set(SCENES[name].files)
        assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), logits(model))
    assert (tmp_path / "README.md").read_text() == "mine, too"


def test_another_policy_takes_over(tmp_path):
    model = SCENES["full"].wrapped()
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path, policy="galore", density=0.5)
    assert again.hybrid.policy.density == 0.5 and torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    "policy",
    [
        Policy((Route(None, name="*embed*"), Route(Treatment(lr_scale=0.5)))),
        hybridopt.wrap(
            tiny_llama(), density=Linear(0.5, 0.1, 7), codec="int8", split="block", order="mirror"
        ).hybrid.policy,
        hybridopt.wrap(tiny_llama(), "badam", blocks=2).hybrid.policy,
    ],
)
def test_the_policy_comes_back(policy, tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy)
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert again.hybrid.policy.routes == policy.routes and again.hybrid.tags == model.hybrid.tags


def halves(step):
    return 0.5 ** (1 + step)


def test_a_density_in_code_is_named_and_given_again(tmp_path):
    model = hybridopt.wrap(tiny_llama(), density=halves)
    train(model)
    model.hybrid.save_pretrained(tmp_path)
    assert "import" not in (tmp_path / "hybridopt_config.json").read_text()
    with pytest.raises(HybridOptError, match="function halves.*policy"):
        hybridopt.from_pretrained(tiny_llama(), tmp_path)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path, policy="frugal", density=halves)
    assert again.hybrid.policy.density is halves and torch.equal(logits(again), logits(model))


def test_the_configuration_is_plain(tmp_path):
    Scene(lora=ALL_LINEAR, wrap={"quantization": "nf4", "density": 0.5}).wrapped().hybrid.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "hybridopt_config.json").read_text())
    assert config["format"] == 1 and config["seed"] == 2 and config["quantization"] == "nf4"
    assert config["policy"]["part"] == "policies.frugal" and config["policy"]["density"] == 0.5
    assert config["adapters"] == config["active"] == ["default"] and len(config["quantized"]) == 14
    manifest = json.loads((tmp_path / "hybridopt_manifest.json").read_text())
    assert set(manifest["files"]) == {"hybridopt_config.json", "adapter_config.json", "adapter_model.safetensors"}
