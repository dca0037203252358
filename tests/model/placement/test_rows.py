"""Rows of embeddings that are looked up on the host."""

import copy

import pytest
import torch
from torch import nn

from hybridopt.model.loading.sizes import weights_of
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.streaming.rows import RowLookup, aside, looked_up
from hybridopt.model.placement.units import units
from support.lazy_lane import Lazy
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_vit
from support.placed import adapted, model_at, stand_in, train

META = torch.device("meta")  # a device that is not the host, without values


@pytest.mark.parametrize("form", ["positional", "named"])
def test_tokens_come_to_the_table_and_rows_to_the_device(form):
    table = nn.Embedding(10, 4)
    rows = RowLookup(table, META)
    ids = torch.tensor([[1, 2, 3]])
    found = table(ids) if form == "positional" else table(input=ids)
    assert found.device == META and found.shape == (1, 3, 4)
    rows.remove()
    assert torch.equal(table(ids), table.weight[ids])


def test_tokens_of_another_device_are_asked_for_on_that_of_the_table():
    table = nn.Embedding(10, 4, device="meta")
    RowLookup(table, META)
    assert table(torch.tensor([1, 2])).device == META  # torch refuses a table and tokens of different devices


def test_a_table_that_is_trained_goes_to_the_device(monkeypatch):
    table = nn.Embedding(10, 4)
    rows, weight, asked = RowLookup(table, META), table.weight, []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device: asked.append(device) or x.clone())
    for trained in (False, True):
        weight.requires_grad_(trained)
        rows.settle()
    assert table.weight is weight and asked == [META]


def test_only_plain_tables_that_nothing_else_uses_are_looked_up():
    model = tiny_llama()
    assert looked_up(model) is model.get_input_embeddings()
    assert looked_up(tiny_bert()) is not None
    tied = (tiny_llama(tie=True), tiny_gpt2())
    assert [looked_up(each) for each in (*tied, tiny_vit(), tiny_resnet())] == [None] * 4
    model.get_input_embeddings().register_buffer("scale", torch.ones(1))  # as Gemma's
    assert looked_up(model) is None


def test_where_another_device_computes_the_table_counts_for_the_host():
    model = tiny_llama()
    assert aside(model, META) == "model.embed_tokens.weight" and aside(model, torch.device("cpu")) is None
    assert aside(tiny_gpt2(), META) is None
    sizes = {name: p.nbytes for name, p in model.named_parameters()}
    table, every = sizes["model.embed_tokens.weight"], units(model)
    found = weights_of(every, sizes, False, aside(model, META))
    assert (found.on_host, found.near) == (table, sum(sizes.values()) - table - sum(found.layers))


def test_hooks_that_want_gradients_of_rows_get_them():
    table = nn.Embedding(10, 4).requires_grad_(False)
    table.register_forward_hook(lambda m, args, rows: rows.requires_grad_())
    RowLookup(table, META)
    assert table(torch.tensor([1])).requires_grad and table(torch.tensor([1])).is_leaf


def test_a_placed_model_looks_rows_up_until_that_ends():
    model = adapted(model_at("resident"))
    expected = train(model, 1).losses
    model = model_at("resident")
    found = stand_in(model, backend=Lazy)
    table = model.get_input_embeddings()
    assert found.aside == [table.weight]
    assert train(adapted(model), 1).losses == expected
    assert "aside" in dir(placed(model))
    found.end()
    assert found.aside == [] and not table._forward_pre_hooks and not table._forward_hooks


def test_a_copy_looks_up_as_any_model_does():
    model = model_at("resident")
    stand_in(model)
    with pytest.warns(UserWarning, match="is not placed"):
        other = copy.deepcopy(model)
    assert torch.equal(other(**batch(other)).logits, model(**batch(model)).logits)
