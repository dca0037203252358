"""Batches split by length: both halves complete, the same by seed and epoch, resumed where they stopped."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from hybridopt import HybridOptError
from hybridopt.integrations.addax.lengths import Halves, PairCollator, PairSampler, lengths_of, pair_loader

MANY = st.lists(st.integers(1, 50), min_size=2, max_size=40).filter(lambda lengths: len(set(lengths)) > 1)
SIZES = {"fo": st.integers(1, 5), "zo": st.integers(1, 7), "seed": st.integers(0, 9)}


def rows(lengths):
    return [
        {"input_ids": torch.full((length,), i), "labels": torch.full((length,), i)} for i, length in enumerate(lengths)
    ]


def padded(rows):
    return {
        key: torch.nn.utils.rnn.pad_sequence([row[key] for row in rows], batch_first=True, padding_value=-1)
        for key in rows[0]
    }


def numbers(batch):
    return batch["input_ids"][:, 0].tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=MANY, cut=st.floats(0, 1), **SIZES)
def test_every_row_has_its_turn_in_its_own_half_and_all_batches_are_full(lengths, cut, fo, zo, seed):
    levels = sorted(set(lengths))
    threshold = levels[int(cut * (len(levels) - 2))]
    sampler = PairSampler(lengths, Halves(threshold, fo, zo), seed)
    pairs = list(sampler)
    assert len(pairs) == len(sampler)
    short = [row for pair in pairs for row in pair[:fo]]
    long = [row for pair in pairs for row in pair[fo:]]
    assert {len(pair) for pair in pairs} == {fo + zo}
    assert set(short) == {i for i, length in enumerate(lengths) if length <= threshold}
    assert set(long) == {i for i, length in enumerate(lengths) if length > threshold}
    for drawn, size in ((short, len(set(short))), (long, len(set(long)))):
        turns = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        assert all(len(set(turn)) == len(turn) for turn in turns), "a row came twice before all had come once"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=MANY, epoch=st.integers(0, 3), stop=st.floats(0, 1), **SIZES)
def test_a_resumed_iteration_goes_on_with_the_same_rows(lengths, epoch, stop, fo, zo, seed):
    halves = Halves(None, fo, zo)
    whole, first, second = (PairSampler(lengths, halves, seed) for _ in range(3))
    for sampler in (whole, first):
        sampler.set_epoch(epoch)
    count = int(stop * len(whole))
    begun = list(islice(first, count))
    assert first.state_dict() == {"epoch": epoch, "position": count}
    second.load_state_dict(first.state_dict())
    assert begun + list(second) + list(second) == list(whole) + list(whole)


def test_epochs_seeds_and_halves_have_orders_of_their_own():
    lengths = [1] * 30
    sampler = PairSampler(lengths, Halves(None, 30, 30))
    (first,), (second,) = list(sampler), list(sampler)
    (other,) = PairSampler(lengths, Halves(None, 30, 30), seed=1)
    orders = [tuple(pair[half]) for pair in (first, second, other) for half in (slice(30), slice(30, None))]
    assert len(set(orders)) == 6
    sampler.set_epoch(0)
    assert list(sampler) == [first]


def test_the_half_that_runs_out_starts_over_in_another_order():
    pairs = list(PairSampler([1] * 8 + [9] * 80, Halves(1, 8, 8)))
    assert len(pairs) == 10
    assert len({tuple(pair[:8]) for pair in pairs}) == 10


def test_setting_the_current_epoch_again_keeps_the_place():
    sampler = PairSampler([1, 2, 3, 4], Halves(None, 1, 1))
    sampler.load_state_dict({"epoch": 2, "position": 3})
    sampler.set_epoch(2)
    assert len(list(sampler)) == 1
    sampler.load_state_dict({"epoch": 2, "position": 3})
    sampler.set_epoch(3)
    assert len(list(sampler)) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_pads_each_half_to_its_own_longest_row(workers):
    lengths = [2, 9, 3, 8, 2, 7]
    loader = pair_loader(rows(lengths), Halves(3, 3, 2), collate=padded, num_workers=workers)
    batches = list(loader)
    assert len(batches) == 2
    for batch in batches:
        assert set(numbers(batch["fo"])) == {0, 2, 4} and set(numbers(batch["zo"])) <= {1, 3, 5}
        assert batch["fo"]["input_ids"].shape == (3, 3)
        assert batch["zo"]["labels"].shape == (2, max(lengths[i] for i in numbers(batch["zo"])))


def test_a_hugging_face_data_set_and_collator():
    from transformers import DataCollatorWithFlattening, default_data_collator

    data = [{"input_ids": [i] * 4, "labels": [i] * 4} for i in range(4)] + [{"input_ids": [9] * 6, "labels": [9] * 6}]
    batch = next(iter(pair_loader(data, Halves(4, 2, 1), collate=default_data_collator)))
    assert batch["fo"]["labels"].shape == (2, 4) and batch["zo"]["labels"].shape == (1, 6)
    flat = PairCollator(DataCollatorWithFlattening(return_tensors="pt"), 2)(data[:2] + data[4:])
    assert flat["fo"]["input_ids"].shape == (1, 8) and flat["zo"]["input_ids"].shape == (1, 6)


def test_lengths_come_from_the_rows_a_function_or_a_list():
    data = rows([3, 5])
    assert lengths_of(data) == lengths_of(data, [3, 5]) == [3, 5]
    assert lengths_of(data, lambda row: 2 * len(row["labels"])) == [6, 10]


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: PairSampler([3, 5], Halves(2)), r"threshold=2 leaves no rows for the first-order half.*\[3, 4\]"),
        (lambda: PairSampler([3, 5], Halves(5)), r"threshold=5 leaves no rows for the zeroth-order half.*\[3, 4\]"),
        (lambda: PairSampler([4, 4], Halves(4)), "all of one length .padded or packed.*threshold=None"),
        (lambda: PairSampler([], Halves()), "no rows"),
        (lambda: Halves(fo_batch=0), "Halves: fo_batch=0 is not allowed"),
        (lambda: Halves(zo_batch=2.0), "Halves: zo_batch=2.0 is not allowed"),
        (lambda: Halves("8"), "threshold='8' is not allowed"),
        (lambda: lengths_of(rows([3, 5]), [3]), "lengths has 1 entries, and the data set 2 rows"),
        (lambda: lengths_of([{"text": "x"}]), "without 'input_ids'.*lengths="),
        (lambda: lengths_of(Endless()), "Endless cannot be split by length"),
        (lambda: PairSampler([3, 5], Halves()).load_state_dict({"epoch": 0}), "position=None is not allowed"),
        (
            lambda: PairSampler([3, 5], Halves()).load_state_dict({"epoch": 0, "position": 2}),
            "position=2 is beyond the 1",
        ),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(act, text):
    with pytest.raises(HybridOptError, match=text):
        act()
