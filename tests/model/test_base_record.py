"""The base model is known by its values: no change to it is lost, no other base is taken."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.base_record import record
from hybridopt.model.checksums import PATTERN, checksum
from support.models import batch, tiny_llama, tiny_resnet

LORA = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])


def train(model, steps=2, **options):
    optimizer = model.hybrid.optimizer(lr=1e-2, **options)
    model.train()
    for _ in range(steps):
        model(**batch(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def saved_and_loaded(model, folder, base=tiny_llama):
    model.hybrid.save_pretrained(folder)
    return hybridopt.from_pretrained(base(), folder).eval()


def same(one, other):
    return torch.equal(one(**batch(one)).logits, other(**batch(other)).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("apart", [1, 2, 32], ids=lambda n: f"{n} rows apart")
def test_what_changes_places_is_another_checksum(dtype, apart):
    """Within a row of the pattern, and between rows, of one chunk or of two."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 200, (40, PATTERN), generator=generator).to(dtype)
    y = x.clone()
    y[0], y[apart] = x[apart], x[0]
    z = x.clone()
    z[3, 0], z[3, apart] = x[3, apart], x[3, 0]
    assert len({checksum(x), checksum(y), checksum(z), checksum(x.flip(0))}) == 4
    tail = x.flatten()[: -PATTERN // 2]
    moved = tail.clone()
    moved[:PATTERN], moved[-PATTERN:] = tail[-PATTERN:], tail[:PATTERN]
    assert checksum(tail) != checksum(moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (PATTERN + 7,), (3, PATTERN)])
def test_one_bit_more_is_another_checksum(dtype, shape):
    x = torch.arange(torch.Size(shape).numel()).remainder(2).to(dtype).view(shape)
    assert checksum(x) == checksum(x.clone())
    for place in {0, x.numel() - 1} if x.numel() else ():
        y = x.clone()
        y.view(-1)[place] = 1 - y.view(-1)[place].to(torch.int8)
        assert checksum(y) != checksum(x)


SMALL = st.lists(st.integers(-64, 64), min_size=8, max_size=8)


@settings(max_examples=200, deadline=None)
@given(SMALL, st.integers(0, 1 << 18), st.sampled_from([1, 7, PATTERN, 1 << 17]))
def test_a_few_small_changes_do_not_cancel_out(steps, start, stride):
    x = torch.ones(start + 8 * stride, dtype=torch.int16)
    y = x.clone()
    y[start : start + 8 * stride : stride] += torch.tensor(steps, dtype=torch.int16)
    assert (checksum(x) == checksum(y)) == (not any(steps))


@pytest.mark.parametrize("changes", [(-12, -9, -2, 9), (1, -2, 1, 0), (3, 0, 0, -1)])
def test_changes_in_regular_proportions_do_not_cancel_out(changes):
    x = torch.ones(4, dtype=torch.bfloat16)
    y = (x.view(torch.int16) + torch.tensor(changes, dtype=torch.int16)).view(torch.bfloat16)
    assert checksum(x) != checksum(y)


def test_all_signs_together_count():
    x = torch.ones(8, dtype=torch.float64)
    assert checksum(x) != checksum(-x)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 3 * PATTERN), st.data())
def test_places_count(length, data):
    x = torch.arange(length, dtype=torch.int32)
    i, j = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, length - 1))
    y = x.clone()
    y[i], y[j] = x[j], x[i]
    assert (checksum(x) == checksum(y)) == (i == j)


def test_what_merging_rounds_away_is_saved(tmp_path):
    model = train(hybridopt.wrap(tiny_llama().bfloat16(), peft_config=LORA))
    model.merge_adapter()
    model.unmerge_adapter()
    assert model.hybrid.changed_tensors()
    assert same(saved_and_loaded(model, tmp_path, lambda: tiny_llama().bfloat16()), model)


def test_writes_through_data_are_saved(tmp_path):
    model = train(hybridopt.wrap(tiny_llama(), peft_config=LORA))
    norm = model.base_model.model.model.norm.weight
    norm.data.mul_(3)
    model.base_model.model.lm_head.weight.data = torch.ones_like(model.base_model.model.lm_head.weight)
    assert len(model.hybrid.changed_tensors()) == 2
    assert same(saved_and_loaded(model, tmp_path), model)


def test_a_step_that_moves_nothing_saves_nothing(tmp_path):
    model = hybridopt.wrap(tiny_llama())
    optimizer = model.hybrid.optimizer(lr=0.0)
    model(**batch(model)).loss.backward()
    optimizer.step()
    assert not model.hybrid.changed_tensors()


def test_unwrapping_does_not_forget_the_base(tmp_path):
    model = train(hybridopt.wrap(tiny_llama()))
    model = train(hybridopt.wrap(model.hybrid.unwrap(), peft_config=LORA))
    assert same(saved_and_loaded(model, tmp_path / "a"), model)
    loaded = saved_and_loaded(model, tmp_path / "b").hybrid.unwrap()
    loaded = train(hybridopt.wrap(loaded))
    assert same(saved_and_loaded(loaded, tmp_path / "c"), loaded)


def test_another_base_of_the_same_shape_is_refused(tmp_path):
    train(hybridopt.wrap(tiny_llama(), peft_config=LORA)).hybrid.save_pretrained(tmp_path)
    other = tiny_llama(seed=1)
    before = record(other)
    with pytest.raises(HybridOptError, match=r"not the base model.*has other values.*same base checkpoint"):
        hybridopt.from_pretrained(other, tmp_path)
    assert record(other) == before and "hybrid" not in vars(other)


def test_a_base_may_differ_where_the_folder_replaces_it(tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = train(hybridopt.wrap(tiny_llama(), peft_config=config))
    other = tiny_llama()
    nn.init.normal_(other.lm_head.weight)
    model.hybrid.save_pretrained(tmp_path)
    assert same(hybridopt.from_pretrained(other, tmp_path).eval(), model)


@pytest.mark.parametrize("change", ["resize", "cut"])
def test_a_base_that_was_resized_is_said_so_before_training(change, tmp_path):
    model = hybridopt.wrap(tiny_llama())
    if change == "resize":
        model.resize_token_embeddings(100)
    else:
        model.model.layers = model.model.layers[:1]
    for call in (model.hybrid.optimizer, lambda: model.hybrid.save_pretrained(tmp_path)):
        with pytest.raises(HybridOptError, match=r"changed since it was wrapped.*unwrap\(\), then wrap"):
            call()
    model = train(hybridopt.wrap(model.hybrid.unwrap()))
    model.hybrid.save_pretrained(tmp_path)


def test_running_statistics_come_back(tmp_path):
    model = hybridopt.wrap(tiny_resnet())
    model.train()
    with torch.no_grad():
        model(**batch(model))
    changed = model.hybrid.changed_tensors()
    assert changed and all("running_" in n or "num_batches" in n for n in changed)
