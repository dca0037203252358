"""Whatever a file holds, it is read, or refused in our words."""

import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridopt.core.errors import HybridOptError
from hybridopt.training.data import sizes
from support.data_files import columns, examples, write_csv, write_jsonl, write_parquet

KINDS = [".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz"]
CHAT = [{"role": "user", "content": "ä"}, {"role": "assistant", "content": "b"}]
GOOD = {"messages": CHAT, "prompt": CHAT[:1], "completion": CHAT[1:], "text": "t", "label": 1, "chosen": "c"}
GOOD |= {
    "rejected": "d",
    "instruction": "i",
    "output": "o",
    "conversations": [{"from": "human", "value": "v"}],
    "tools": [],
}
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4) | st.just([])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x", "tool_calls"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ROWS = st.dictionaries(st.sampled_from([*GOOD, "id"]), VALUES | st.sampled_from([*GOOD.values()]), max_size=4)
USUAL = dict(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def sound(folder):
    """What a good file of each kind holds."""
    row = {"prompt": "ä, b", "completion": 'c "d"'}
    lines = f"{json.dumps(row, ensure_ascii=False)}\n".encode() * 3
    table = "prompt,completion\n" + '"ä, b","c ""d"""\n' * 3
    parquet = write_parquet(folder / "good.parquet", [row] * 3).read_bytes()
    every = [
        lines,
        json.dumps([row] * 3).encode(),
        table.encode(),
        table.replace(",", "\t").encode(),
        "ä\n\nb\n".encode(),
    ]
    return dict(zip(KINDS, [*every, parquet, gzip.compress(lines)], strict=True))


def tried(path):
    """Read a file, if it is not refused; everything that comes of it can be looked at."""
    try:
        found = examples(path)
    except HybridOptError as error:
        assert str(error).strip()
        return
    assert len(found.train) > 0 and columns(found.train) and found.origin(0)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, **USUAL)
@given(content=st.binary(max_size=60))
def test_any_bytes(folder, kind, content):
    path = folder / f"bytes{kind}"
    path.write_bytes(content)
    tried(path)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, **USUAL)
@given(data=st.data())
def test_good_files_with_bytes_put_in_or_taken_out(folder, sound, kind, data):
    good = io.BytesIO(sound[kind]).getvalue()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 9)))
    path = folder / f"damaged{kind}"
    path.write_bytes(good[:start] + data.draw(st.binary(max_size=3)) + good[end:])
    tried(path)


@settings(max_examples=60, **USUAL)
@given(rows=st.lists(ROWS, min_size=1, max_size=3))
def test_any_rows(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tried(path)


@settings(max_examples=40, **USUAL)
@given(columns=st.sets(st.sampled_from([*GOOD, "id"]), min_size=1, max_size=4), value=VALUES, at=st.integers(0, 3))
def test_good_rows_with_one_value_of_another_kind(folder, columns, value, at):
    row = {name: GOOD.get(name, 7) for name in sorted(columns)}
    name = sorted(columns)[at % len(columns)]
    path = folder / "odd.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {name: value}) + "\n")
    tried(path)


@pytest.mark.parametrize(
    ("name", "row", "where"),
    [
        ("a.jsonl", {"text": "a" * 101}, ":2: "),
        ("b.jsonl", {"messages": [CHAT[0], {"role": "assistant", "content": "a" * 100}]}, ":2: "),
        ("c.jsonl", {"prompt": "a" * 50, "completion": "b" * 51}, ":2: "),
        ("d.csv", {"text": "a" * 101}, ":3: "),
        ("e.parquet", {"text": "a" * 101}, ", row 2: "),
    ],
)
def test_a_row_of_more_text_than_is_made_into_tokens_at_once_is_told_by_its_line(
    name, row, where, tmp_path, monkeypatch
):
    monkeypatch.setattr(sizes, "MOST", 120)
    short = CHAT if "messages" in row else "a"
    rows = [dict.fromkeys(row, short), row]
    path = tmp_path / name
    {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}[path.suffix](path, rows)
    examples(path)  # these are short enough
    monkeypatch.setattr(sizes, "MOST", 100)
    with pytest.raises(
        HybridOptError, match=f"{where}has [0-9]+ characters, and a row may have 100, as .*several rows"
    ):
        examples(path)
