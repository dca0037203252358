"""Models whose layers cannot be computed again lose the ways that would, and nothing else."""

import pytest
from peft import LoraConfig
from transformers import AlbertConfig, AlbertForMaskedLM, LlamaConfig, XLNetConfig

import hybridopt
from hybridopt import HybridOptError
from hybridopt.planning import Estimator, Request, plan, search
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.ways.first_fit import Hunt

SMALL = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 128, "max_position_embeddings": 64}
ALBERT = AlbertConfig(**SMALL, embedding_size=16, architectures=["AlbertForMaskedLM"])
XLNET = XLNetConfig(vocab_size=128, d_model=64, n_layer=3, n_head=4, d_inner=128, architectures=["XLNetLMHeadModel"])


@pytest.mark.parametrize(("config", "kind"), [(ALBERT, "AlbertForMaskedLM"), (XLNET, "XLNetLMHeadModel")])
def test_asking_for_it_is_refused_by_name(config, kind):
    request = Request(policy="adamw", checkpointing=True, seq_len=8, dtype="fp32")
    with pytest.raises(HybridOptError, match=f"checkpointing=True: {kind} does not take part"):
        plan(config, request)
    with pytest.raises(HybridOptError, match=f"checkpointing=True: {kind} does not take part"):
        search(config, "24GiB", asked={"checkpointing": True}, seq_len=8, dtype="fp32")
    plan(config, request.but(checkpointing=False))


@pytest.mark.parametrize(("config", "there"), [(ALBERT, False), (LlamaConfig(**SMALL), True)])
def test_the_search_leaves_it_out(config, there):
    hunt = Hunt(Estimator(subject_of(config)), 2**30, {}, Request(seq_len=8))
    hunt.check()
    variants = hunt._variants(Request(seq_len=8), True)
    assert variants and any(v.checkpointing for v in variants) == there


def test_auto_leaves_it_out():
    lora = LoraConfig(r=2, target_modules=["query"])
    model = hybridopt.wrap(AlbertForMaskedLM(ALBERT), "auto", memory="644MiB", seq_len=8, peft_config=lora)
    assert not model.hybrid.choice.request.checkpointing
