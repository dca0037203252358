"""Models, data sets and results go over HTTP, from and to a hub on this machine."""

import json
import shutil

import datasets
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

import hybridopt
from hybridopt import HybridOptError
from hybridopt.planning.subject.hub import CACHED, LOADED
from hybridopt.planning.subject.source import subject_of
from hybridopt.saving.hub import push_folder
from hybridopt.training.config.reading import run_of
from hybridopt.training.running.prepare import prepare
from hybridopt.training.running.train import train
from support.hub_server import serving
from support.tiny_chat import save_tiny_chat, write_rows

SHORT = ("train.max_steps=2", "train.accumulate=1", "train.warmup=0", "train.lr=1e-2", "train.save_every=null")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with a model, `acme/tiny`, and examples, `acme/colours`."""
    place = tmp_path_factory.mktemp("hub")
    save_tiny_chat(place / "models" / "acme" / "tiny", layers=1)
    (place / "datasets" / "acme" / "colours").mkdir(parents=True)
    write_rows(place / "datasets" / "acme" / "colours" / "train.jsonl", "messages", 16)
    with serving(place) as hub:
        yield hub


@pytest.fixture(autouse=True)
def asked(hub, tmp_path, monkeypatch):
    """What the hub is asked; caches are empty, and relative paths lead to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    hub.asked.clear()
    hub.gated.clear()
    return hub.asked


def files(asked):
    """The files of models that were given out whole."""
    return [each.rpartition("/")[2] for each in asked if each.startswith("GET /acme/tiny/resolve")]


def test_a_plan_takes_the_configuration_alone_and_once(asked):
    assert [subject_of("acme/tiny").source for _ in range(2)] == [LOADED, CACHED]
    assert files(asked) == ["config.json"]


def test_a_dry_run_takes_no_weights_and_a_run_is_uploaded(hub, asked, tmp_path):
    method = ("method={policy: adamw, lora: 4}", "output.push=acme/tuned")
    prepared = prepare(run_of("acme/tiny", ["acme/colours"], [*SHORT, *method, "output.folder=out"]))
    assert "acme/colours: columns messages: read as messages" in prepared.told
    assert "tokenizer.json" in files(asked) and "model.safetensors" not in files(asked)

    before = len(hub.commits)
    train(prepared)
    assert files(asked).count("model.safetensors") == 1
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "acme/tiny"
    (commit,) = hub.commits[before:]
    assert "lfsFile" in {line["key"] for line in commit}  # weights are no part of the commit itself
    assert commit[0]["value"]["summary"]

    back = huggingface_hub.snapshot_download("acme/tuned")
    base = AutoModelForCausalLM.from_pretrained("acme/tiny")
    tokens = torch.arange(5)[None]
    untrained = base(tokens).logits
    again = hybridopt.from_pretrained(base, back, is_trainable=False)
    here = hybridopt.from_pretrained(AutoModelForCausalLM.from_pretrained("acme/tiny"), "out", is_trainable=False)
    assert torch.equal(again(tokens).logits, here(tokens).logits) and not torch.equal(again(tokens).logits, untrained)
    assert "acme/tiny" in (tmp_path / "out" / "README.md").read_text()


def test_a_later_upload_takes_away_what_the_earlier_one_left(hub):
    tokens = torch.arange(5)[None]
    model = hybridopt.wrap(AutoModelForCausalLM.from_pretrained("acme/tiny"), policy="adamw")
    model.hybrid.push_to_hub("acme/whole", full=True)
    (hub.folder("models", "acme/whole") / "of-others.bin").write_text("theirs")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    model.hybrid.push_to_hub("acme/whole")
    there = {path.name for path in hub.folder("models", "acme/whole").iterdir()}
    assert {"hybridopt_delta.safetensors", "README.md", "of-others.bin"} <= there and "model.safetensors" not in there
    base = AutoModelForCausalLM.from_pretrained("acme/tiny")
    again = hybridopt.from_pretrained(base, huggingface_hub.snapshot_download("acme/whole"))
    assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_any_number_of_files_goes_in_one_commit(hub, tmp_path, monkeypatch):
    """Also with hf_xet, where upload_folder makes several of so many."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    model = hybridopt.wrap(AutoModelForCausalLM.from_pretrained("acme/tiny"), policy="adamw")
    model.hybrid.save_pretrained(tmp_path / "out")
    more = [f"log-{i}.txt" for i in range(300)]
    for name in more:
        (tmp_path / "out" / name).write_text(name)
    before = len(hub.commits)
    push_folder(tmp_path / "out", "acme/many", more)
    (commit,) = hub.commits[before:]
    assert {line["value"].get("path") for line in commit} >= {*more, "hybridopt_manifest.json"}


@pytest.mark.parametrize(
    ("model", "data", "gated", "text"),
    [
        ("acme/absent", "acme/colours", None, "model='acme/absent'.*RepositoryNotFoundError.*hf auth login"),
        ("acme/tiny", "acme/absent", None, "acme/absent: no such file or folder, and no such data set on the hub"),
        ("acme/tiny", "acme/colours", "acme/tiny", "model='acme/tiny'.*GatedRepoError.*hf auth login"),
        ("acme/tiny", "acme/colours", "acme/colours", "acme/colours: the hub gives it to those alone who have asked"),
        ("acme/tiny", "acme/colours:test", None, "acme/colours:test: .*a split is named as acme/colours:SPLIT"),
        ("acme/pickled", "acme/colours", None, "acme/pickled': the hub has no model.safetensors and no .*index.json"),
    ],
)
def test_what_the_hub_does_not_give_is_told_before_anything_is_loaded(model, data, gated, text, hub):
    if model == "acme/pickled":
        folder = hub.folder("models", model)
        shutil.copytree(hub.folder("models", "acme/tiny"), folder, dirs_exist_ok=True)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.gated |= {gated} - {None}
    with pytest.raises(HybridOptError, match=text):
        prepare(run_of(model, [data], [*SHORT, "method=adamw"]))
