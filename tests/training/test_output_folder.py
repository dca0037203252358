"""What a training run leaves behind is loaded by PEFT and transformers as it is, and says what it is."""

import json

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving.manifest import MANIFEST
from hybridopt.training.output.base_name import base_name_of, hub_name
from hybridopt.training.output.card import MARK
from hybridopt.training.output.folder import save
from support.saved import logits, train
from support.tiny_chat import save_tiny_chat, tokenizer

LORA = {"r": 2, "target_modules": ["q_proj"]}
CARD = {
    "base_model": "meta-llama/Llama-3.2-1B",
    "task": "sft",
    "datasets": ["org/chats"],
    "data": [{"path": "/secret/place/chats.jsonl", "rows": 50, "sha256": "ab" * 32}],
    "method": {"policy": "frugal", "lora": {"r": 2}, "quantization": "nf4", "options": {}},
    "train": {"steps": 3, "lr": 1e-4},
    "results": {"loss": 1.25, "eval_loss": None},
    "memory": {"planned_bytes": 3 * 2**30, "measured_bytes": 2**30, "device": "cpu"},
    "versions": {"hybridopt": "1", "torch": "2"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("base"))


def trained(base, lora=None, **options):
    config = None if lora is None else LoraConfig(**lora)
    model = hybridopt.wrap(AutoModelForCausalLM.from_pretrained(base), peft_config=config, **options)
    train(model, 1)
    return model


def front(folder):
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_adapters_load_by_themselves(base, tmp_path):
    model = trained(base, LORA)
    assert save(model, tmp_path, tokenizer(), {"base_model": str(base)}) == tmp_path
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words.chat_template == tokenizer().chat_template and words.pad_token == tokenizer().pad_token
    loaded = hybridopt.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    assert torch.equal(logits(loaded), logits(model))


def test_a_whole_model_loads_by_itself(base, tmp_path):
    model = trained(base)
    save(model, tmp_path, tokenizer(), CARD)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
    assert {"generation_config.json", "chat_template.jinja", "tokenizer.json", "hybridopt_config.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    head, body = front(tmp_path)
    assert head["library_name"] == "transformers" and head["base_model"] == CARD["base_model"]
    assert "AutoModelForCausalLM.from_pretrained" in body and "vllm serve FOLDER" in body


def test_the_card_says_what_is_known(base, tmp_path):
    model = trained(base, LORA)
    save(model, tmp_path, tokenizer(), CARD)
    head, body = front(tmp_path)
    assert head == {
        "library_name": "peft",
        "base_model": "meta-llama/Llama-3.2-1B",
        "base_model_relation": "adapter",
        "pipeline_tag": "text-generation",
        "tags": ["hybridopt", "sft"],
        "datasets": ["org/chats"],
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == CARD["base_model"]
    told = (
        "chats.jsonl | 50 | `abab",
        "frugal",
        "loss: 1.25",
        "planned: 3.00 GiB",
        "measured: 1.00 GiB",
        "resident set",
    )
    assert [text for text in told if text not in body] == []
    assert "secret" not in body and "eval_loss" not in body
    assert "--lora-modules" in body and "AutoPeftModelForCausalLM" in body


def test_what_vllm_does_not_load_is_merged(base, tmp_path):
    save(trained(base, LORA | {"use_dora": True}), tmp_path / "dora", None, CARD)
    assert "--lora-modules" not in front(tmp_path / "dora")[1]
    model = hybridopt.wrap(AutoModelForCausalLM.from_pretrained(base), peft_config=LoraConfig(**LORA))
    model.base_model.model.model.norm.weight.requires_grad_(True)
    train(model, 1)
    save(model, tmp_path / "norms", None, CARD)
    body = front(tmp_path / "norms")[1]
    assert "AutoPeftModel" not in body and "hybridopt merge" in body


def test_the_code_on_the_card_of_a_classifier_loads_it(tmp_path):
    base = AutoModelForSequenceClassification.from_pretrained(
        save_tiny_chat(tmp_path / "base"), num_labels=3, id2label={0: "bad", 1: "so-so", 2: "good"}
    )
    model = hybridopt.wrap(base, peft_config=LoraConfig(**LORA, task_type="SEQ_CLS", init_lora_weights=False))
    save(model, tmp_path / "out", tokenizer(), {"base_model": str(tmp_path / "base"), "task": "classify"})
    head, body = front(tmp_path / "out")
    assert head["pipeline_tag"] == "text-classification" and "vllm" not in body
    code, space = body.split("```python\n")[1].split("```")[0], {}
    exec(code.replace("FOLDER", str(tmp_path / "out")).replace("BASE", str(tmp_path / "base")), space)
    tokens = torch.arange(1, 7).view(1, 6)
    assert torch.equal(space["model"].eval()(tokens).logits, model.eval()(tokens).logits)
    assert space["model"].config.id2label[1] == "so-so"


def test_other_files_stay_and_earlier_results_go(base, tmp_path):
    for name in ("run.yaml", "checkpoints/checkpoint-1/model.safetensors", "report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    full, adapters = trained(base), trained(base, LORA)
    save(full, tmp_path, tokenizer(), CARD, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    save(adapters, tmp_path, tokenizer(), CARD)
    assert not list(tmp_path.glob("model*")) and not (tmp_path / "config.json").exists()
    assert (tmp_path / "checkpoints/checkpoint-1/model.safetensors").exists() and (tmp_path / "run.yaml").exists()
    listed = json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert "chat_template.jinja" in listed and "run.yaml" not in listed


def test_a_card_may_be_edited(base, tmp_path):
    model = trained(base, LORA)
    save(model, tmp_path, None, CARD)
    path = tmp_path / "README.md"
    path.write_text(path.read_text() + "more\n")
    hybridopt.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    save(model, tmp_path, None, CARD)
    assert "more" not in path.read_text()
    path.write_text(path.read_text().replace(MARK, "mine"))
    for _ in range(2):
        save(model, tmp_path, None, CARD)
        assert "mine" in path.read_text()


def test_what_is_wrong_is_said_and_nothing_is_saved(base, tmp_path):
    model = trained(base, LORA)
    with pytest.raises(HybridOptError, match="no entry 'losses'.*results"):
        save(model, tmp_path, None, {"losses": 1})
    with pytest.raises(HybridOptError, match="was not wrapped"):
        save(torch.nn.Linear(1, 1), tmp_path, None, {})
    with pytest.raises(HybridOptError, match="full=True is for a model without adapters.*hybridopt merge"):
        save(model, tmp_path, None, {}, full=True)

    class Broken:
        def save_pretrained(self, place):
            raise ValueError("no vocabulary")

    with pytest.raises(HybridOptError, match="Broken cannot be saved.*no vocabulary"):
        save(model, tmp_path, Broken(), {})
    assert not list(tmp_path.iterdir())


def test_bases_are_named_so_that_others_find_them(tmp_path, monkeypatch):
    place = tmp_path / "hub" / "models--org--a-b" / "snapshots" / ("0" * 40)
    place.mkdir(parents=True)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_name_of(str(place)) == hub_name(str(place)) == "org/a-b"
    assert base_name_of("mine/model") == str(tmp_path / "mine/model") and hub_name("mine/model") is None
    assert base_name_of("org/name") == hub_name("org/name") == "org/name"
    assert hub_name(None) is None and hub_name("/no/where") is None
