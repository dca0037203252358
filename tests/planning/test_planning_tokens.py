"""Models that step through tokens in Python are planned from few of them, to the byte."""

import pytest
from transformers import LlamaConfig, MambaConfig, RwkvConfig

from hybridopt import HybridOptError
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.trace import tokens
from hybridopt.planning.trace.moments import Event, Moment
from hybridopt.planning.trace.simulate import Limit, Trace

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1}
MAMBA = MambaConfig(**SMALL, state_size=4, architectures=["MambaForCausalLM"])
RWKV = RwkvConfig(**SMALL, attention_hidden_size=16, intermediate_size=16, architectures=["RwkvForCausalLM"])


def estimated(config, steps, **how):
    estimator = Estimator(subject_of(config))
    estimator._steps = steps
    return estimator.estimate(Request(**{"policy": "adamw", "seq_len": 13} | how))


@pytest.mark.parametrize("how", [{"checkpointing": True}, {"policy": "mezo"}])
def test_bytes_are_those_of_all_tokens(how):
    assert estimated(MAMBA, True, **how) == estimated(MAMBA, False, **how)


def test_of_another_kind_of_recurrence_too():
    assert estimated(RWKV, True) == estimated(RWKV, False)


def test_a_model_that_steps_is_found_and_runs_few_tokens(monkeypatch):
    monkeypatch.setattr(tokens, "USUAL", 100)
    estimator, run = Estimator(subject_of(MAMBA)), []
    simulated = estimator._pass
    monkeypatch.setattr(estimator, "_pass", lambda r, *a: (run.append(r.seq_len), simulated(r, *a))[1])
    estimator.estimate(Request(policy="adamw", seq_len=64))
    assert estimator._steps is True and run == [64, *tokens.POINTS]


def test_a_model_of_many_operations_that_does_not_step_is_run_as_it_is(monkeypatch):
    monkeypatch.setattr(tokens, "USUAL", 10)
    monkeypatch.setattr(tokens, "CHUNKED", 0)
    config = LlamaConfig(**SMALL, num_attention_heads=2, intermediate_size=16)
    estimator = Estimator(subject_of(config))
    found = estimator.estimate(Request(policy="adamw", seq_len=64))
    assert estimator._steps is False and found == estimated(config, False, seq_len=64)


def test_chunks_of_a_loss_are_refused_by_name():
    with pytest.raises(HybridOptError, match="chunk=8 is not planned for mamba, which steps through tokens"):
        estimated(MAMBA, True, chunk=8)


def trace(count, alive, two=True):
    """A pass with one or two loops over `count` tokens; `alive` says how many bytes there are at each place."""
    first = [Event("a", alive(count, i), 0) for i in range(count)]
    second = [Event("c", alive(count, count - i), 0) for i in range(count)] if two else []
    events = [Event("", 0, 0), *first, Event("b", alive(count, count) + 7, 0), *second, Event("d", 0, 0)]
    top = max(events, key=lambda e: e.forward)
    moment = Moment(("start",), top.forward, 0, events=tuple(events))
    return Trace((moment,), 0, operations=len(events))


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("alive", [lambda n, i: 3 * n + 2 * i, lambda n, i: n * n + i, lambda n, i: 100 - 2 * i + n])
def test_loops_are_followed_to_their_ends(alive, two):
    found, steps = tokens.traced(lambda n, limit: trace(n, alive, two), 50, 1, True)
    assert steps and found.moments[0].total == trace(50, alive, two).moments[0].total


def test_what_is_no_polynomial_is_simulated_in_full():
    run = []

    def simulated(count, limit):
        run.append(count)
        return trace(count, lambda n, i: 2**n)

    found, steps = tokens.traced(simulated, 20, 1, True)
    assert steps and run == [*tokens.POINTS, 20] and found.moments[0].total == 2**20 + 7
    assert Limit().operations is None
