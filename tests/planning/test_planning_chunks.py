"""Plans of a loss in chunks: as `hybridopt.chunked_loss` takes it, tried in a search, and left to those who train."""

from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModelForCausalLM

import hybridopt
from benchmarks.plan_grid.measure import SOURCES, counted_step, prepared
from hybridopt.model.losses.linear_cross_entropy import linear_cross_entropy, only_tiles_that_differ
from hybridopt.planning import Estimator, Request, estimator
from hybridopt.planning.subject.model import Subject
from hybridopt.planning.trace import tokens
from hybridopt.planning.ways.search import search
from hybridopt.planning.ways.ways import CHUNK

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("known")]

WORDS = {"num_hidden_layers": 2, "vocab_size": 8192, "hidden_size": 64, "intermediate_size": 128}
LLAMA = Subject("llama", SOURCES["llama"].settings | WORDS)
BERT = Subject("bert", SOURCES["bert"].settings | {"num_hidden_layers": 2, "hidden_size": 64})
SIZE = {"seq_len": 64, "device": "cpu"}


@pytest.mark.parametrize("chunk", [16, 48])
def test_the_plan_is_that_of_a_real_step(chunk):
    request = Request(policy="adamw", lora=4, chunk=chunk, batch=2, **SIZE)
    model, optimizer = prepared(LLAMA, request)
    batch = torch.randint(8192, (2, 64))
    with hybridopt.chunked_loss(model, chunk):
        found = max(counted_step(model, optimizer, batch, 1) for _ in range(2))
    planned = Estimator(LLAMA).estimate(request).peak_bytes
    assert planned == pytest.approx(found, rel=0.03)
    assert planned < 0.7 * Estimator(LLAMA).estimate(request.but(chunk=None)).peak_bytes


def test_many_chunks_are_no_steps_through_tokens(monkeypatch):
    monkeypatch.setattr(tokens, "USUAL", 450)
    request = Request(policy="adamw", lora=4, chunk=2, batch=2, **SIZE)
    estimator = Estimator(LLAMA)
    assert estimator.estimate(request).peak_bytes < estimator.estimate(request.but(chunk=None)).peak_bytes


@pytest.mark.parametrize("request_", [Request(policy="adamw", lora=4, **SIZE), Request(policy="adamw", **SIZE)])
@pytest.mark.parametrize("chunk", [4, 24, 32, 48, 64, 100])
def test_tiles_that_are_left_out_change_nothing(request_, chunk, monkeypatch):
    """Of the loss, computed by tokens, and of the gradient of the output layer, computed by words."""
    some = Estimator(LLAMA).estimate(request_.but(chunk=chunk))
    monkeypatch.setattr(estimator, "only_tiles_that_differ", nullcontext)
    assert some == Estimator(LLAMA).estimate(request_.but(chunk=chunk))


def test_a_batch_of_a_million_takes_as_many_operations_as_a_tenth_of_it():
    estimator_ = Estimator(LLAMA)
    requests = [Request(policy="adamw", chunk=1, batch=n, **SIZE) for n in (10**5, 10**6)]
    tenth, million = (estimator_.estimate(request) for request in requests)
    assert million.activations_bytes == pytest.approx(10 * tenth.activations_bytes, rel=0.01)
    assert len({trace.operations for trace in estimator_._traces.values()}) == 1


def test_losses_are_worked_out_as_a_whole_again_after_a_plan():
    hidden, weight, labels = torch.randn(64, 8), torch.randn(128, 8), torch.randint(128, (64,))
    whole = linear_cross_entropy(hidden, weight, labels, chunk=64)
    with only_tiles_that_differ():
        part = linear_cross_entropy(hidden, weight, labels, chunk=4)
    again = linear_cross_entropy(hidden, weight, labels, chunk=4)
    assert part < 0.5 * whole and torch.isclose(whole, again)


def test_it_is_tried_before_checkpointing():
    """And where it alone helps, the lines to paste say so."""
    size = SIZE | {"seq_len": 512}
    request = Request(policy="adamw", **size)
    plain, chunked = (Estimator(LLAMA).estimate(request.but(chunk=c)).peak_bytes for c in (None, CHUNK))
    best = search(LLAMA_CONFIG, (plain + chunked) // 2, enough=1, **size)[0]
    assert best.way.title == "AdamW" and best.request.chunk == CHUNK and not best.request.checkpointing
    assert "chunked_loss(model, 256)" in best.code and best.estimate.peak_bytes == chunked


def test_other_losses_are_searched_without_it():
    found = search(BERT.config(), "1GiB", **SIZE)
    assert found and all(choice.request.chunk is None for choice in found)


def test_who_lets_choose_keeps_the_logits():
    request = Request(policy="adamw", seq_len=512, device="cpu")
    plain, chunked = (Estimator(LLAMA).estimate(request.but(chunk=c)).peak_bytes for c in (None, CHUNK))
    model = AutoModelForCausalLM.from_config(LLAMA.config(), dtype=torch.bfloat16)
    model = hybridopt.wrap(model, policy="auto", memory=(plain + chunked) // 2, seq_len=512)
    assert model.hybrid.choice.fits and model.hybrid.choice.request.chunk is None


LLAMA_CONFIG = LLAMA.config()
