"""Files that are damaged and rows that are wrong are told by file and line, and all that is wrong is named."""

import gzip

import pytest

from support.data_files import examples, refusal, write_csv, write_jsonl, write_parquet

GOOD = '{"prompt": "a", "completion": "b"}\n'
ASK, SAY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SYSTEM, TOOL = {"role": "system", "content": "s"}, {"role": "tool", "content": "r"}

DAMAGED = {  # name, bytes, what is said after the file's path
    "comma": ("a.jsonl", GOOD * 2 + '{"prompt": "a" "b"}\n' + GOOD, ":3: is no JSON object: Expecting ',' delimiter"),
    "near": ("a.jsonl", GOOD + '{"prompt": "x", oops}\n', """near '{"prompt": "x", oops}'"""),
    "cut off": (
        "a.jsonl",
        GOOD * 2 + '{"prompt": "a", "comp',
        ":3: ends in the middle of a row, so the file is incomplete",
    ),
    "cut off after a value": ("a.jsonl", GOOD + '{"prompt": "a"', ":2: ends in the middle of a row"),
    "cut off in a character": (
        "a.jsonl",
        GOOD.encode() + '{"prompt": "ä'.encode()[:-1],
        ":2: the file ends in the middle",
    ),
    "latin-1": (
        "a.jsonl",
        GOOD.encode() + '{"prompt": "é"}\n'.encode("latin-1"),
        ":2: is not UTF-8: byte 0xe9 ('é' in",
    ),
    "latin-1 table": ("a.csv", "text\nfine\ncafé\n".encode("latin-1"), ":3: is not UTF-8: byte 0xe9 ('é' in Latin-1)"),
    "latin-1 text": ("a.txt", "fine\n\ncafé\n".encode("latin-1"), ":3: is not UTF-8: byte 0xe9"),
    "UTF-16": ("a.jsonl", GOOD.encode("utf-16"), " is UTF-16, not UTF-8; convert it"),
    "UTF-32": ("a.csv", "text\na\n".encode("utf-32"), " is UTF-32, not UTF-8; convert it: iconv -f UTF-32"),
    "lines of old Macs": (
        "a.jsonl",
        GOOD.replace("\n", "\r") * 3,
        " ends its lines with a carriage return (CR) alone",
    ),
    "a table of old Macs": ("a.csv", "text,label\ra,x\r", " ends its lines with a carriage return (CR) alone"),
    "text of old Macs": ("a.txt", "first\rsecond", " ends its lines with a carriage return (CR) alone"),
    "names over a line": ("a.csv", "text,la\rbel\na,x\n", ":1: a carriage return (CR) stands within a cell"),
    "cell over a line": ("a.csv", "text,label\na\rb,x\n", ":2: a carriage return (CR) stands within a cell"),
    "line end in a text": ("a.jsonl", GOOD + '{"prompt": "a\n', ":2: is no JSON object: a text goes over a line end"),
    "tab in a text": ("a.json", '[{"text": "a\tb"}]\n', ":1: is no JSON: a text goes over a line end, or has a tab"),
    "many digits": (
        "a.jsonl",
        f'{{"text": "a", "label": {"9" * 5000}}}\n',
        ":1: has a whole number of more than",
    ),
    "NUL": ("a.jsonl", GOOD + '{"prompt": "\0", "completion": "b"}\n', ":2: the file has NUL bytes here (column 13)"),
    "half a character": ("a.jsonl", GOOD + '{"prompt": "\\ud83d", "completion": "b"}\n', ":2: has half a character"),
    "twice": (
        "a.jsonl",
        GOOD + '{"prompt": "a", "prompt": "b"}\n',
        ":2: is no JSON object: the key 'prompt' is there",
    ),
    "a number": ("a.jsonl", GOOD + "17\n", ":2: is a number (17), not a JSON object"),
    "a list a line": ("a.jsonl", GOOD + '["a", "b"]\n', ":2: is a list (['a', 'b']), not a JSON object"),
    "indented": ("a.jsonl", '{\n "text": "a"\n}\n', ":1: is no whole JSON object: a row is on one line"),
    "too deep": ("a.jsonl", GOOD + "[" * 100_000 + "\n", ":2: has lists or objects within each other, deeper than"),
    "list without end": ("a.json", '[{"text": "a"},\n {"text": "b"}\n', ":3: the list has no end (']')"),
    "list cut off": ("a.json", '[{"text": "a"},\n {"text": "b', ":2: the list ends in the middle of a row"),
    "list without comma": ("a.json", '[{"text": "a"}\n {"text": "b"}]', ':2: a comma is missing before \'{"text"'),
    "list and more": ("a.json", '[{"text": "a"}]\n{"text": "b"}\n', ":2: something follows the list"),
    "list of texts": ("a.json", '[{"text": "a"},\n"b"]', ":2: is text ('b'), not a JSON object"),
    "more cells": ("a.csv", 'text,label\n"a\nb",x\nc, d,x\n', ":4: has 3 cells, but there are 2 columns"),
    "fewer cells": ("a.tsv", "text\tlabel\na\tx\nb\n", ":3: has 1 cells, but there are 2 columns"),
    "open quote": ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', ':3: a double quote (") is opened here and never closed'),
    "column twice": ("a.csv", "text,label,text\na,x,b\n", ": the column 'text' is there twice"),
    "no parquet": ("a.parquet", b"PAR1 but not more", " is no parquet file, or it is cut off"),
    "no gzip": ("a.jsonl.gz", GOOD, " is no gzip file, or it is cut off"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(GOOD.encode() * 99)[:-9], " is no gzip file, or it is cut off"),
    "empty": ("a.jsonl", "", " is empty (0 bytes)"),
    "empty lines": ("a.jsonl", "\n\n", " has no rows"),
    "empty list": ("a.json", "[]\n", " has no rows"),
    "names alone": ("a.csv", "text,label\n", " has no rows"),
    "empty text": ("a.txt", " \n\n", " has no rows"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_told_by_line(tmp_path, case):
    name, content, said = DAMAGED[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"{path}{said}" in refusal(path) or said.startswith("near") and said in refusal(path)


def test_a_cut_parquet_file_is_told(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"text": "a"}] * 9)
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} is no parquet file, or it is cut off" in refusal(path)


def test_a_row_that_is_not_as_the_first(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [GOOD.strip()] * 4 + [{"prompt": "a", "answer": "b"}, GOOD.strip()])
    assert (
        refusal(path) == f"{path}:5: has no column 'completion', which earlier rows have (its columns: prompt, answer)"
    )


def test_three_bad_rows_are_told_at_once_and_no_more(tmp_path):
    bad = {"prompt": "a", "completion": 1}
    path = write_jsonl(tmp_path / "a.jsonl", [GOOD.strip(), bad, "{", GOOD.strip(), bad, bad])
    lines = refusal(path).splitlines()
    assert [line.split(":")[1] for line in lines[:3]] == ["2", "3", "5"]
    assert lines[3:] == ["Reading stopped after 3 bad rows; there may be more."]
    path = write_jsonl(tmp_path / "b.jsonl", [GOOD.strip(), bad, bad])
    assert len(refusal(path).splitlines()) == 2


def chat(*messages):
    return {"messages": list(messages)}


WRONG = {  # a good row, a wrong one, and what is said of it
    "number for text": ({"text": "a"}, {"text": 3}, "text is 3, not text; write it in quotes"),
    "null for text": ({"text": "a"}, {"text": None}, "text is missing (null), not text"),
    "null completion": (GOOD, {"prompt": "a", "completion": None}, "completion is missing (null), not text"),
    "list for text": ({"text": "a"}, {"text": ["a"]}, "text is ['a'], not text"),
    "messages after text": (
        GOOD,
        {"prompt": [ASK], "completion": [SAY]},
        "prompt is a list of messages, but text in the",
    ),
    "prompt alone messages": (GOOD, {"prompt": [ASK], "completion": "b"}, "prompt is messages, but completion is 'b'"),
    "role unknown": (
        chat(ASK, SAY),
        chat(ASK, {"role": "gpt", "content": "b"}),
        "the role 'gpt'; did you mean 'assistant'?",
    ),
    "role misspelt": (
        chat(ASK, SAY),
        chat({"role": "usr", "content": "b"}, SAY),
        "the role 'usr'; did you mean 'user'?",
    ),
    "role missing": (
        chat(ASK, SAY),
        chat({"content": "b"}, SAY),
        "message 1 of messages has no role (its keys: content)",
    ),
    "role no text": (
        chat(ASK, SAY),
        chat(ASK, {"role": 1, "content": "b"}),
        "message 2 of messages has the role 1; Known:",
    ),
    "system late": (
        chat(ASK, SAY),
        chat(ASK, SYSTEM, SAY),
        "message 2 of messages is the system's; only the first can be",
    ),
    "assistant first": (chat(ASK, SAY), chat(SAY, ASK, SAY), "messages begins with 'assistant'"),
    "assistant after system": (chat(ASK, SAY), chat(SYSTEM, SAY), "messages begins with 'assistant'"),
    "user last": (
        chat(ASK, SAY),
        chat(ASK, SAY, ASK),
        "messages ends with 'user'; the last message is the assistant's",
    ),
    "no assistant": (chat(ASK, SAY), chat(SYSTEM, ASK), "messages has no message of the assistant"),
    "no messages": (chat(ASK, SAY), chat(), "messages is an empty list, not a list of messages"),
    "messages as text": (chat(ASK, SAY), {"messages": "[]"}, "messages is '[]', not a list of messages"),
    "message as text": (chat(ASK, SAY), chat("hello", SAY), "message 1 of messages is 'hello', not an object"),
    "content missing": (
        chat(ASK, SAY),
        chat(ASK, {"role": "assistant"}),
        "message 2 of messages: content is missing, not",
    ),
    "content number": (
        chat(ASK, SAY),
        chat(ASK, {**SAY, "content": 4}),
        "message 2 of messages: content is 4, not text",
    ),
    "content parts": (chat(ASK, SAY), chat(ASK, {**SAY, "content": [{"type": "text"}]}), "content is a list of parts"),
    "calls of the user": (
        chat(ASK, SAY),
        chat({**ASK, "tool_calls": []}, SAY),
        "message 1 of messages: tool_calls is a list",
    ),
    "tools no list": (chat(ASK, SAY), {**chat(ASK, SAY), "tools": {}}, "tools is {}, not a list of objects"),
    "tools no JSON": (chat(ASK, SAY), {**chat(ASK, SAY), "tools": "[{"}, "tools is text that is no JSON"),
    "prompt ends wrong": (
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": [ASK, SAY], "completion": [SAY]},
        "prompt ends with",
    ),
    "completion begins wrong": (
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": [ASK], "completion": [ASK, SAY]},
        "completion begins with 'user'; it is the assistant's",
    ),
    "rejected missing": ({"chosen": "a", "rejected": "b"}, {"chosen": "a"}, "has no column 'rejected'"),
    "rejected null": (
        {"chosen": "a", "rejected": "b"},
        {"chosen": "a", "rejected": None},
        "rejected is missing (null)",
    ),
    "one is a chat": (
        {"chosen": "a", "rejected": "b"},
        {"chosen": "a", "rejected": [SAY]},
        "not both text or both messages",
    ),
    "prompt at once": (
        {"chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        "has a prompt, but",
    ),
    "prompt gone": (
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"chosen": "a", "rejected": "b"},
        "has no prompt, but the",
    ),
    "label null": ({"text": "a", "label": 1}, {"text": "b", "label": None}, "label is missing (null)"),
    "label empty": ({"text": "a", "label": "x"}, {"text": "b", "label": ""}, "label is missing ('')"),
    "label of no class": ({"text": "a", "label": 1}, {"text": "b", "label": -1}, "label is missing (-1)"),
    "label a float": (
        {"text": "a", "label": 1},
        {"text": "b", "label": 0.5},
        "label is 0.5; classes are whole numbers or",
    ),
    "label a list": ({"text": "a", "label": 1}, {"text": "b", "label": [1]}, "label is [1]; one class a row"),
    "label mixed": (
        {"text": "a", "label": 1},
        {"text": "b", "label": "1"},
        "label '1' is text, but earlier ones are a number",
    ),
    "a message that is not to be learnt": (
        chat(ASK, SAY),
        chat(ASK, SAY | {"weight": 0}),
        "message 2 of messages: weight=0 asks to learn it less or not at all",
    ),
    "a message that is half learnt": (chat(ASK, SAY | {"weight": 1}), chat(ASK, SAY | {"weight": 0.5}), "weight=0.5"),
    "a message that is not trained": (
        chat(ASK, SAY | {"train": True}),
        chat(ASK, SAY | {"train": False}),
        "train=Fal",
    ),
    "pairs that answer two questions": (
        {"chosen": [ASK, SAY], "rejected": [ASK, SAY | {"content": "no"}]},
        {"chosen": [ASK, SAY], "rejected": [ASK | {"content": "another"}, SAY]},
        "chosen and rejected begin with different messages",
    ),
    "one of a pair with a system": (
        {"chosen": [ASK, SAY], "rejected": [ASK, SAY]},
        {"chosen": [ASK, SAY], "rejected": [{"role": "system", "content": "s"}, ASK, SAY]},
        "chosen and rejected begin with different messages",
    ),
    "pair gone": (
        {"text": "a", "text_pair": "b", "label": 1},
        {"text": "b", "label": 0},
        "has no text_pair, but the first row",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_told_by_line(tmp_path, case):
    good, wrong, said = WRONG[case]
    good = good.strip() if isinstance(good, str) else good
    path = write_jsonl(tmp_path / "a.jsonl", [good, good, wrong])
    assert refusal(path).startswith(f"{path}:3: ") and said in refusal(path)


def test_rows_of_parquet_are_told_by_number(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"text": "a"}, {"text": None}])
    assert refusal(path) == f"{path}, row 2: text is missing (null), not text"


EMPTY = {
    "text": ({"text": " "}, {"text": "a"}),
    "prompt_completion": ({"prompt": "a", "completion": ""}, {"prompt": "a", "completion": "b"}),
    "chat answers": (
        {"prompt": [ASK], "completion": [{**SAY, "content": ""}]},
        {"prompt": [ASK], "completion": [SAY]},
    ),
    "messages": (chat(ASK, {**SAY, "content": "\n"}), chat(ASK, SAY)),
    "preference": ({"chosen": "", "rejected": " "}, {"chosen": "a", "rejected": "b"}),
    "prompt": ({"prompt": ""}, {"prompt": "a"}),
    "labels": ({"text": "", "label": 0}, {"text": "a", "label": 1}),
}


@pytest.mark.parametrize("case", EMPTY)
def test_empty_rows_alone_are_refused_and_some_are_told(tmp_path, case):
    empty, full = EMPTY[case]
    assert "all 2 rows are empty: there is nothing to learn" in refusal(write_jsonl(tmp_path / "a.jsonl", [empty] * 2))
    found = examples(write_jsonl(tmp_path / "b.jsonl", [full, empty, full]))
    assert len(found.train) == 3 and any("1 of 3 rows empty" in line for line in found.told)


def test_equal_answers_alone_are_refused_and_some_are_told(tmp_path):
    equal, unlike = {"chosen": "a", "rejected": "a"}, {"chosen": "a", "rejected": "b"}
    said = refusal(write_jsonl(tmp_path / "a.jsonl", [equal] * 2))
    assert "chosen and rejected are the same in all 2 rows" in said
    found = examples(write_jsonl(tmp_path / "b.jsonl", [unlike, equal]))
    assert "data.train: chosen and rejected are the same in 1 of 2 rows" in found.told


def test_one_class_alone_is_refused(tmp_path):
    said = refusal(write_csv(tmp_path / "a.csv", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]))
    assert said == "data.train: all rows have the label 'x'; a classifier needs two classes or more"
