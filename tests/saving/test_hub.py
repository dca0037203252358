"""`model.hybrid.push_to_hub` uploads a folder that loads again; the hub is a stand-in."""

import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError
from hybridopt.training.output.folder import push, save
from support.models import tiny_llama
from support.saved import logits, train


class Hub:
    """Keeps in a folder what is uploaded, and notes what it was asked."""

    def __init__(self, place):
        self.place, self.asked, self.token = place, {}, None
        self.error = None

    def __call__(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        self.asked["create"] = (repo_id, private, exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id, name, revision=None):
        return (self.place / name).exists()

    def hf_hub_download(self, repo_id, name, revision=None):
        return str(self.place / name)

    def list_repo_files(self, repo_id, revision=None):
        return [path.relative_to(self.place).as_posix() for path in self.place.rglob("*") if path.is_file()]

    def create_commit(self, repo_id, operations, commit_message=None, revision=None):
        if self.error:
            raise self.error
        self.asked["upload"] = (repo_id, revision, commit_message)
        for each in operations:
            path = self.place / each.path_in_repo
            if isinstance(each, huggingface_hub.CommitOperationDelete):
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(each.path_or_fileobj, path)
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    return hub


@pytest.fixture(scope="module")
def model():
    config = LoraConfig(r=2, target_modules=["q_proj"])
    model = hybridopt.wrap(tiny_llama(), peft_config=config, quantization="nf4")
    model.peft_config["default"].base_model_name_or_path = "meta-llama/Llama-3.2-1B"
    train(model, 1)
    return model


def test_what_was_uploaded_comes_back(model, hub):
    url = model.hybrid.push_to_hub("me/tuned", private=True, revision="next", commit_message="first", token="secret")
    assert url == "https://huggingface.co/me/tuned/commit/1"
    assert hub.asked == {"create": ("me/tuned", True, True), "upload": ("me/tuned", "next", "first")}
    assert hub.token == "secret"
    again = hybridopt.from_pretrained(tiny_llama(), hub.place)
    assert torch.equal(logits(again), logits(model))


def test_the_card_says_what_it_is(model, hub):
    model.hybrid.push_to_hub("me/tuned")
    text = (hub.place / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: peft\nbase_model: meta-llama/Llama-3.2-1B\ntags: [hybridopt]\n---\n")
    assert all(part in text for part in ("# tuned", "`Frugal`", "nf4", "adapter `default`: LORA", "from_pretrained"))


def test_cards_of_people_stay(model, hub):
    model.hybrid.push_to_hub("me/tuned", card="mine")
    model.hybrid.push_to_hub("me/tuned")
    assert (hub.place / "README.md").read_text() == "mine"
    model.hybrid.push_to_hub("me/tuned", card="new")
    assert (hub.place / "README.md").read_text() == "new"


@pytest.mark.parametrize("relative", [False, True])
def test_paths_of_this_machine_are_on_no_card(relative, hub, tmp_path, monkeypatch):
    (tmp_path / "models" / "secret").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    place = "models/secret" if relative else str(tmp_path / "models" / "secret")
    model = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = place
    model.hybrid.push_to_hub("me/tuned")
    assert "secret" not in (hub.place / "README.md").read_text()


def test_what_goes_wrong_is_said(model, hub):
    with pytest.raises(HybridOptError, match="repo_id='no/such/name' is no name on the hub"):
        model.hybrid.push_to_hub("no/such/name")
    assert not hub.asked
    hub.error = OSError("no network")
    with pytest.raises(HybridOptError, match="me/tuned could not be uploaded.*no network.*save_pretrained"):
        model.hybrid.push_to_hub("me/tuned")
    assert not hub.place.exists()


def test_a_later_upload_leaves_nothing_of_the_one_before(model, hub):
    whole = hybridopt.wrap(tiny_llama(), policy="adamw")
    train(whole, 1)
    for one, adapters in ((whole, False), (model, True), (whole, False)):
        one.hybrid.push_to_hub("me/tuned")
        assert (hub.place / "adapter_config.json").exists() == adapters
        assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), hub.place)), logits(one))
    assert (hub.place / "README.md").exists()


def test_whole_models_and_adapters_follow_each_other(model, hub):
    whole = hybridopt.wrap(tiny_llama(), policy="adamw")
    train(whole, 1)
    hub.place.mkdir()
    (hub.place / "pytorch_model.bin").write_text("of others")
    for full in (True, False, True):
        (whole if full else model).hybrid.push_to_hub("me/tuned", full=full)
        there = {path.name for path in hub.place.iterdir()}
        assert (
            {"model.safetensors", "config.json"} <= there if full else not {"model.safetensors", "config.json"} & there
        )
        assert ("adapter_config.json" in there) is not full and "pytorch_model.bin" in there
    assert torch.equal(logits(type(whole).from_pretrained(hub.place)), logits(whole))
    text = (hub.place / "README.md").read_text()
    assert "library_name: transformers" in text and 'LlamaForCausalLM.from_pretrained("me/tuned")' in text


def test_the_result_of_a_run_goes_without_its_checkpoints(model, hub, tmp_path):
    folder = tmp_path / "out"
    for name in ("run.yaml", "log.jsonl", "checkpoints/checkpoint-1/model.safetensors", "merged/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    save(model, folder, None, {"base_model": "org/base"})
    push(folder, "me/tuned", private=True)
    there = {path.relative_to(hub.place).as_posix() for path in hub.place.rglob("*") if path.is_file()}
    assert there >= {"run.yaml", "log.jsonl", "README.md", "adapter_config.json", "hybridopt_manifest.json"}
    assert not any(name.startswith(("checkpoints", "merged")) for name in there)
    assert hub.asked["create"] == ("me/tuned", True, True)
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), hub.place)), logits(model))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(HybridOptError, match=r"adapter_config\.json has"):
        push(folder, "me/tuned")
