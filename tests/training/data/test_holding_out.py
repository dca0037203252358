"""Rows for evaluation: a share by the seed, a file, or a split of the hub."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridopt.core.errors import HybridOptError
from hybridopt.training.data.holding_out import hold_out
from support.data_files import columns, examples, refusal, write_jsonl


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 200), st.floats(0.001, 0.8), st.integers(0, 9), st.booleans())
def test_every_row_is_in_one_part_and_the_same_for_a_seed(rows, share, seed, classes):
    kinds = [row % 3 if row % 5 else 0 for row in range(rows)] if classes and rows > 6 else None
    try:
        train, held = hold_out(rows, share, seed, kinds)
    except HybridOptError:
        assert max(1, round(share * rows)) >= rows
        return
    assert (train, held) == hold_out(rows, share, seed, kinds)
    assert sorted(train + held) == list(range(rows)) and train and train == sorted(train) and held == sorted(held)
    assert len(held) == max(1, round(share * rows))
    if kinds:
        assert {kinds[row] for row in train} == set(kinds)
        for kind, count in Counter(kinds).items():
            assert abs(Counter(kinds[row] for row in held)[kind] - len(held) * count / rows) <= 1


def test_another_seed_holds_out_other_rows():
    assert hold_out(1000, 0.1, 0)[1] != hold_out(1000, 0.1, 1)[1]


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(HybridOptError, match="is no share; give a number between 0 and 1"):
        hold_out(10, share, 0)


def test_classes_of_one_row_are_not_held_out():
    with pytest.raises(HybridOptError, match="every class has one row"):
        hold_out(4, 0.5, 0, [0, 1, 2, 3])
    assert set(hold_out(9, 0.3, 0, [0, 1, 2, 3, 3, 3, 3, 3, 3])[1]) <= set(range(3, 9))


def test_a_share_is_told_and_rows_keep_their_lines(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": str(number)} for number in range(1, 41)])
    found, again = examples(path, eval=0.1, seed=3), examples(path, eval=0.1, seed=3)
    assert (len(found.train), len(found.eval)) == (36, 4) and columns(found.eval) == columns(again.eval)
    assert found.told[-1] == "data.eval: 4 of 40 rows are held out, chosen by the seed"
    assert [found.origin(row) for row in range(36)] == [f"{path}:{text}" for text in found.train["text"]]
    assert [found.eval_origins.where(row) for row in range(4)] == [f"{path}:{text}" for text in found.eval["text"]]
    assert columns(examples(path, eval=0.1, seed=4).eval) != columns(found.eval)


def test_a_share_that_leaves_nothing_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    assert "data.eval=0.05 of 1 row leaves none for training" in refusal(path, eval=0.05)


def test_a_file_to_evaluate_with_is_read_the_same_way(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": text, "label": text[0]} for text in ("bx", "ax", "by")])
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "q", "label": "b"}])
    found = examples(train, eval=str(other))
    assert columns(found.eval) == {"text": ["q"], "label": [1]} and len(found.train) == 3
    assert [(file.path, file.eval) for file in found.files] == [(str(train), False), (str(other), True)]
    assert found.eval_origins.where(0) == f"{other}:1"


def test_labels_that_training_has_not_are_refused(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": "t", "label": label} for label in "aab"])
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "t", "label": label} for label in "abz"])
    assert refusal(train, eval=str(other)) == "data.eval: the label 'z' is in no row of data.train (its labels: a, b)"


def test_another_format_to_evaluate_with_is_refused(tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    files = {
        "text": [{"text": "a"}],
        "pairs": [{"prompt": "a", "completion": "b"}],
        "chats": [{"prompt": chat[:1], "completion": chat[1:]}],
    }
    paths = {name: write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()}
    assert "data.eval is text (text), but data.train prompt_completion (text)" in refusal(
        paths["pairs"], eval=str(paths["text"])
    )
    assert "data.eval is prompt_completion (messages), but data.train prompt_completion (text)" in refusal(
        paths["pairs"], eval=str(paths["chats"])
    )
    assert "data.eval: there is no" in refusal(paths["text"], eval=str(tmp_path / "none.jsonl"))


def test_rows_that_training_has_too_are_told(tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for rows in ([{"text": "a"}, {"text": "b"}], [{"messages": chat}, {"messages": chat[:1] + [chat[1] | {"x": 1}]}]):
        train = write_jsonl(tmp_path / "a.jsonl", rows)
        other = write_jsonl(tmp_path / "b.jsonl", [rows[0], rows[0]])
        said = "data.eval: 2 of 2 rows are also in data.train; their loss says little"
        assert examples(train, eval=str(other)).told[-1] == said
        assert "also in data.train" not in examples(train, eval=0.5).told[-1]
