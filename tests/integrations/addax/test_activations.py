"""What activations cost is measured, not guessed, and the largest threshold that fits a budget is chosen from it."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hybridopt
from hybridopt import HybridOptError
from hybridopt.integrations.addax.activations import RowBatches, forward_bytes, measure, saved_bytes
from hybridopt.integrations.addax.assignment import Assignment, assign, choose, total_bytes
from hybridopt.integrations.addax.length_costs import Cost, LengthCosts
from hybridopt.integrations.addax.lengths import Halves
from support.models import tiny_bert, tiny_llama, tiny_resnet

LORA = LoraConfig(r=4, target_modules="all-linear")
MODELS = {
    "sdpa": lambda: tiny_llama(layers=3),
    "eager attention": lambda: tiny_llama(layers=3, attn_implementation="eager"),
    "norms between int8": lambda: hybridopt.wrap(tiny_llama(), policy="adamw", quantization="int8"),
    "lora on int8": lambda: hybridopt.wrap(tiny_llama(), peft_config=LORA, quantization="int8"),
    "lora on nf4": lambda: hybridopt.wrap(tiny_llama(), peft_config=LORA, quantization="nf4"),
    "dropout": lambda: dropping(tiny_bert()),
}


def dropping(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    return model


def loss_of(model):
    def loss_at(batch, length):
        tokens = torch.arange(batch * length).view(batch, length) % 90 + 3
        labels = tokens[:, 0] % 2 if "Bert" in type(model).__name__ else tokens
        return model(input_ids=tokens, labels=labels, **unused(model)).loss

    return loss_at


def unused(model):
    """Keys and values for generation would be alive, too, until the outputs are freed."""
    return {} if "Bert" in type(model).__name__ else {"use_cache": False}


class Storages(TorchDispatchMode):
    """Sees every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        storages = [x.untyped_storage() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.sizes |= {StorageWeakRef(storage): storage.nbytes() for storage in storages}
        return out

    def alive(self, model):
        own = {StorageWeakRef(p.untyped_storage()) for p in (*model.parameters(), *model.buffers())}
        return sum(size for ref, size in self.sizes.items() if ref not in own and not ref.expired())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_counted_as_saved_is_what_stays_alive_after_a_forward_pass(name):
    model = MODELS[name]().train()
    at = loss_of(model)
    with Storages() as seen:
        loss = at(2, 48)
    alive, counted = seen.alive(model), saved_bytes(model, lambda: at(2, 48))
    assert loss.requires_grad
    assert counted == pytest.approx(alive, rel=0.02)


@pytest.mark.parametrize("name", ["sdpa", "eager attention"])
def test_the_fit_holds_for_batches_and_lengths_that_were_not_measured(name):
    model = MODELS[name]().train()
    at, costs = loss_of(model), measure(model, loss_of(model), 64)
    for batch, length in ((4, 64), (3, 40), (5, 50), (1, 33)):
        saved, forward = (f(model, partial(at, batch, length)) for f in (saved_bytes, forward_bytes))
        assert costs.probe(batch, length) == pytest.approx(forward, rel=0.1)
        assert costs.gradient(batch, length) == pytest.approx(saved + forward, rel=0.05)
    assert (costs.gradient.quadratic > 10) == (name == "eager attention")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_pass_takes_no_more_than_was_said_and_not_far_less(checkpointing):
    model = tiny_llama(layers=4)
    at, costs = loss_of(model), measure(model, loss_of(model), 64)
    if checkpointing:
        model.gradient_checkpointing_enable()
    said = (costs.checkpointed if checkpointing else costs.gradient)(4, 60)

    def backward():
        with torch.enable_grad():
            torch.autograd.grad(at(4, 60), [model.get_input_embeddings().weight])

    took = forward_bytes(model, backward) - model.get_input_embeddings().weight.nbytes
    assert 0.6 * said < took <= said


def test_checkpointing_costs_less_and_counts_where_it_is_on():
    plain, switched = tiny_llama(layers=4), tiny_llama(layers=4)
    switched.gradient_checkpointing_enable()
    one, other = measure(plain, loss_of(plain), 64), measure(switched, loss_of(switched), 64)
    assert one.checkpointed(4, 64) < 0.8 * one.gradient(4, 64)
    assert other.checkpointed == other.gradient == one.checkpointed
    assert not plain.is_gradient_checkpointing and switched.is_gradient_checkpointing


def test_sampled_inputs_cost_less_and_are_not_checkpointed():
    plain, sampled = tiny_llama(layers=4), hybridopt.wrap(tiny_llama(layers=4), policy="addax", activations="wta-crs")
    one, other = measure(plain, loss_of(plain), 64), measure(sampled, loss_of(sampled), 64)
    assert other.checkpointed is None
    assert other.gradient(4, 64) < 0.97 * one.gradient(4, 64)


def test_measuring_changes_nothing():
    model = tiny_resnet().eval()
    model.norm.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()

    def loss_at(batch, length):
        assert model.training
        return model(torch.randn(batch, 3, 4 + length, 4 + length), torch.zeros(batch, dtype=torch.long)).loss

    measure(model, loss_at, 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training and model.norm.training
    assert all(p.grad is None for p in model.parameters())
    random = dropping(tiny_bert())
    measure(random, loss_of(random), 8)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_what_is_trained_counts_as_gradient():
    model = tiny_llama()
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    costs = measure(model, loss_of(model), 16)
    assert costs.largest == model.model.norm.weight.nbytes
    assert costs.weights == sum(p.nbytes for p in model.parameters())
    assert costs.gradient(1, 16) < measure(tiny_llama(), loss_of(tiny_llama()), 16).gradient(1, 16)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    linear=st.integers(1, 10**6),
    quadratic=st.integers(0, 10**4),
    fixed=st.integers(0, 10**7),
    longest=st.integers(1, 4096),
)
def test_a_fit_is_never_below_what_was_measured_and_exact_where_it_can_be(linear, quadratic, fixed, longest):
    def real(batch, length):
        return fixed + batch * length * (linear + quadratic * length)

    cost = Cost.measured(real, longest)
    half = max(1, longest // 2)
    assert all(cost(*at) >= real(*at) - 1 for at in ((1, half), (1, longest), (2, half)))
    if fixed == 0 and longest > 1:
        assert cost(7, 3 * longest) == pytest.approx(real(7, 3 * longest), rel=1e-6)


def test_rows_are_cut_to_length_with_everything_that_is_as_long():
    row = {"input_ids": [5, 6, 7], "labels": torch.arange(3), "label": torch.tensor(1), "text": "abc", "pair": (1, 2)}
    first, second = RowBatches(row, 3, list)(2, 2)
    assert first["input_ids"] == [5, 6] and first["labels"].tolist() == [0, 1]
    assert (first["label"], first["text"], first["pair"]) == (torch.tensor(1), "abc", (1, 2))
    assert first is not second


# ---- the choice

COSTS = LengthCosts(1000, 50, 400, Cost(30, 0.1), Cost(1, 0.01), Cost(6, 0.05), 100)
LENGTHS = [10] * 5 + [20] * 3 + [60] * 10 + [100] * 2


@settings(max_examples=200, deadline=None, derandomize=True)
@given(budget=st.integers(1, 40_000), lengths=st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_the_choice_fits_and_a_longer_row_or_larger_batch_would_not(budget, lengths):
    try:
        choice = choose(COSTS, lengths, budget)
    except HybridOptError:
        assert COSTS.zeroth_order(1, max(lengths)) > budget or COSTS.first_order(1, min(lengths)) > budget
        return
    limit = choice.threshold or max(lengths)
    assert max(choice.fo_bytes, choice.zo_bytes) <= budget
    assert choice.fo_bytes == COSTS.first_order(choice.fo_batch, limit)
    assert choice.zo_bytes == COSTS.zeroth_order(choice.zo_batch, max(lengths))
    assert choice.zo_batch == 6 or COSTS.zeroth_order(choice.zo_batch + 1, max(lengths)) > budget
    assert choice.fo_batch == 4 or COSTS.first_order(choice.fo_batch + 1, min(lengths)) > budget
    longer = [length for length in lengths if length > limit]
    assert (choice.threshold is None) == (not longer)
    assert all(COSTS.first_order(choice.fo_batch, length) > budget for length in longer)
    short, long = choice.divide(lengths)
    assert choice.fo_share == pytest.approx(len(short) / len(lengths))
    assert choice.zo_share == pytest.approx(len(long) / len(lengths))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (COSTS.first_order(4, 20), (20, 4, 6)),
        (COSTS.first_order(4, 60) - 1, (20, 4, 6)),
        (COSTS.first_order(4, 60), (60, 4, 6)),
        (COSTS.first_order(3, 10), (10, 3, 4)),
        (10**6, (None, 4, 6)),
    ],
)
def test_batches_shrink_only_where_no_length_fits(budget, expected):
    choice = choose(COSTS, LENGTHS, budget)
    assert (choice.threshold, choice.fo_batch, choice.zo_batch) == expected


def test_the_table_says_what_was_chosen_and_what_checkpointing_would_take():
    split, whole = choose(COSTS, LENGTHS, 8 * 1024), choose(COSTS, LENGTHS, 10**6)
    lines = str(split).splitlines()
    assert lines[1].split("  ")[0] == "first-order" and "<= 20 tokens  40.0%  4 " in lines[1]
    assert "> 20 tokens   60.0%  6 " in lines[2]
    assert "with gradient checkpointing 5.32 KiB, which fits" in str(split)
    assert "no split" not in str(split) and "everything fits: no split by length is needed" in str(whole)
    none = dataclasses.replace(COSTS, checkpointed=None)
    assert "checkpointing" not in str(choose(none, LENGTHS, 8 * 1024))


def test_a_choice_is_kept_as_json(tmp_path):
    for budget in (8 * 1024, 10**6):
        choice = choose(COSTS, LENGTHS, budget)
        choice.save(tmp_path / "choice.json")
        assert Assignment.load(tmp_path / "choice.json") == choice
    data = json.loads((tmp_path / "choice.json").read_text())
    for change, text in (({"fo_batch": 0}, "fo_batch=0"), ({"budget": "8"}, "budget"), ({"odd": 1}, "unknown key")):
        (tmp_path / "bad.json").write_text(json.dumps(data | change))
        with pytest.raises(HybridOptError, match=text):
            Assignment.load(tmp_path / "bad.json")


def test_a_model_and_its_rows_make_a_choice():
    model = tiny_llama()
    rows = [{"input_ids": torch.full((n,), 5), "labels": torch.full((n,), 5)} for n in (8, 12, 16, 40, 64)]
    costs = measure(model, loss_of(model), 64)
    choice = assign(
        model, rows, budget=costs.first_order(4, 20), loss=lambda batch: model(**batch, use_cache=False).loss
    )
    assert choice.threshold == 16 and choice.fo_share == 0.6
    assert choice.fo_bytes == pytest.approx(costs.first_order(4, 16), rel=0.02)
    assert assign(model, rows, budget="1 GiB").threshold is None


def test_budgets_are_read_with_their_units(monkeypatch):
    model = nn.Linear(2, 2)
    assert [total_bytes(text, model) for text in ("8GiB", " 1.5 KiB ", "2 GB", 7)] == [8 * 2**30, 1536, 2 * 10**9, 7]

    class OnGpu:
        device = torch.device("cuda", 0)
        nbytes = 0

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 900))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    monkeypatch.setattr("hybridopt.integrations.addax.assignment._device", lambda model: OnGpu.device)
    assert total_bytes("free", model) == 24 + 500 + 40


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: choose(COSTS, LENGTHS, 1300), "the gradient of a single row of 10 tokens takes 1360.* 60 bytes"),
        (lambda: choose(COSTS, LENGTHS, 1200), "the probe of a single row of 100 tokens takes 1250.* 50 bytes"),
        (lambda: choose(COSTS, [10], 1359), "the gradient of a single row of 10 tokens takes 1360.*1 bytes .1 B. are"),
        (lambda: choose(COSTS, LENGTHS, 9999, Halves(20)), "threshold=20 is given already"),
        (lambda: total_bytes("8 gallons", nn.Linear(1, 1)), "budget='8 gallons': the unit 'gallons' is not known"),
        (lambda: total_bytes("GiB", nn.Linear(1, 1)), "budget='GiB' is no size"),
        (lambda: total_bytes(True, nn.Linear(1, 1)), "budget=True is no size"),
        (lambda: total_bytes(0, nn.Linear(1, 1)), "budget=0 is not allowed"),
        (lambda: total_bytes("free", nn.Linear(1, 1)), "the model is on cpu; give '8GiB'"),
        (lambda: measure(tiny_llama().requires_grad_(False), None, 8), "no parameter .* requires gradients"),
        (lambda: measure(nn.Linear(1, 1), lambda b, n: torch.ones(3), 8), "must be a tensor of one number"),
        (lambda: assign(nn.Linear(1, 1), [], budget=8), "no rows"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(act, text):
    with pytest.raises(HybridOptError, match=text):
        act()
