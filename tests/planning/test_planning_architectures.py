"""Known architectures: found by any spelling, and as large as their makers say."""

import json

import pytest

from hybridopt import HybridOptError
from hybridopt.planning.request import Request
from hybridopt.planning.subject import architectures
from hybridopt.planning.subject.model import Subject, skeleton
from hybridopt.planning.subject.source import subject_of

PUBLISHED = {  # billions, as in the papers and model cards; of Gemma 3 without its image encoder
    "llama-2-7b": 6.74, "llama-2-13b": 13.02, "llama-2-70b": 68.98,
    "llama-3-8b": 8.03, "llama-3-70b": 70.55, "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.55, "llama-3.1-405b": 405.85,
    "llama-3.2-1b": 1.24, "llama-3.2-3b": 3.21,
    "qwen2.5-0.5b": 0.494, "qwen2.5-1.5b": 1.54, "qwen2.5-3b": 3.09, "qwen2.5-7b": 7.62, "qwen2.5-14b": 14.77,
    "qwen2.5-32b": 32.76, "qwen2.5-72b": 72.71,
    "qwen3-0.6b": 0.60, "qwen3-1.7b": 1.72, "qwen3-4b": 4.02, "qwen3-8b": 8.19, "qwen3-14b": 14.77, "qwen3-32b": 32.76,
    "mistral-7b": 7.24, "mixtral-8x7b": 46.70,
    "gemma-2-2b": 2.61, "gemma-2-9b": 9.24, "gemma-2-27b": 27.23,
    "gemma-3-1b": 1.00, "gemma-3-4b": 3.88, "gemma-3-12b": 11.77, "gemma-3-27b": 27.01,
    "opt-1.3b": 1.32, "opt-13b": 12.85, "opt-30b": 29.97, "opt-66b": 65.72,
    "gpt2": 0.124, "gpt2-medium": 0.355, "gpt2-large": 0.774, "gpt2-xl": 1.558,
    "bert-base": 0.110, "bert-large": 0.335,
}  # fmt: skip


def test_every_architecture_is_checked_here():
    assert set(architectures.names()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_were_published(name):
    model = skeleton(subject_of(name), Request(policy="adamw"))
    count = sum(p.numel() for p in model.parameters())
    assert count == json.loads(architectures.FILE.read_text())[name]["parameters"]
    assert count / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006 if count > 1e9 else 0.006 * count / 1e9 + 0.0005)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("LLaMA-3-70B", "llama-3-70b"),
        ("llama3_70b", "llama-3-70b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("bert-base-uncased", "bert-base"),
        ("llama-3-405b", "llama-3.1-405b"),
    ],
)
def test_spellings(spelling, name):
    assert architectures.canonical(spelling) == name


def test_sizes_with_a_point_are_not_confused():
    assert architectures.canonical("qwen2.5-05b") is None
    assert architectures.canonical("llama-31-8b") is None


def test_an_unknown_name_lists_the_closest():
    with pytest.raises(HybridOptError, match="'llama-3-9b' is no known architecture.*closest are llama-3-8b"):
        subject_of("llama-3-9b")
    with pytest.raises(HybridOptError, match="known are llama-2-7b, .*bert-large.*config.json"):
        subject_of("zzzzzz")


def test_paths_where_nothing_lies_are_told_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    for name, text in (
        ("./my-modle", "no such file or folder; did you mean 'my-model'"),
        ("nothere.json", "no such file or folder; give a config.json"),
        (str(tmp_path / "no" / "config.json"), "there is no folder .*/no; give"),
    ):
        with pytest.raises(HybridOptError, match=text):
            architectures.check_name(name)


def test_a_data_file_entry_is_not_shared():
    architectures.architecture("gpt2")["n_embd"] = 1
    assert architectures.architecture("gpt2")["n_embd"] == 768


def test_a_source_keeps_its_name():
    assert subject_of("Llama3-8B") == Subject("llama-3-8b", architectures.architecture("llama-3-8b"))
