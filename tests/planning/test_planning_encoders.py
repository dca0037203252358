"""Encoders, with a head or without: what is planned says so, and the program for them runs."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, LlamaModel

from hybridopt.planning import Request, plan
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.ways.calls import script
from hybridopt.planning.ways.search import search
from support.models import tiny_llama

TINY = BertConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16,
)  # fmt: skip
SIZE = {"seq_len": 8, "device": "cpu", "dtype": "fp32"}


def test_an_encoder_without_a_head_is_planned_with_a_classifier(tmp_path):
    BertModel(TINY).save_pretrained(tmp_path / "bare")
    BertForSequenceClassification(TINY).save_pretrained(tmp_path / "headed")
    request = Request(policy="adamw", **SIZE)
    bare, headed = plan(tmp_path / "bare", request), plan(tmp_path / "headed", request)
    assert bare.model.endswith("(as BertForSequenceClassification)") and bare.parts == headed.parts


def test_a_decoder_without_a_head_is_planned_with_that_for_texts(tmp_path):
    LlamaModel(tiny_llama().config).save_pretrained(tmp_path)
    found = subject_of(tmp_path)
    assert found.name.endswith("(as LlamaForCausalLM)") and found.causal


@pytest.mark.parametrize("many", [1, 2])
def test_the_program_for_a_classifier_runs_on_own_batches(tmp_path, monkeypatch, many):
    monkeypatch.chdir(tmp_path)
    BertForSequenceClassification(TINY).save_pretrained("model")
    assert not subject_of("model").causal
    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "labels": torch.zeros(2, dtype=torch.long)}
    torch.save([batch] * 4, "passes.pt")
    names = {}
    text = script(Request(policy="adamw", micro_batches=many, batch=2, **SIZE), 1e-3, "model", causal=False)
    exec(text, names)  # the package's own text
    assert "labels=batch" not in text and Path("trained/hybridopt_config.json").exists()


def test_a_search_prints_the_program_of_its_kind(tmp_path):
    BertModel(TINY).save_pretrained(tmp_path)
    best = search(tmp_path, "4GiB", asked={"lora": None, "quantization": None, "checkpointing": False}, **SIZE)[0]
    assert "model(**batch).loss" in best.script and f'folder = "{tmp_path}"' in best.script
