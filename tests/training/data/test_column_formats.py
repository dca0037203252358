"""The format is seen from the columns and told; others' names are offered or read, and what is unclear is refused."""

import pytest

from support.data_files import columns, examples, refusal, write_csv, write_jsonl

ASK, SAY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
VALUES = {"messages": [ASK, SAY], "chosen": "c", "rejected": "r", "label": 1, "tools": [{}]}
SEEN = {
    "messages": "messages",
    "messages, tools": "messages",
    "messages, prompt": "messages",
    "prompt, completion": "prompt_completion",
    "chosen, rejected": "preference",
    "prompt, chosen, rejected": "preference",
    "text, label": "labels",
    "text, text_pair, label": "labels",
    "text": "text",
    "prompt": "prompt",
}


def row(names, **more):
    return {name: VALUES.get(name, name) for name in names.split(", ")} | more


def written(tmp_path, *rows):
    return write_jsonl(tmp_path / "a.jsonl", rows)


@pytest.mark.parametrize("names", SEEN)
def test_formats_are_seen_by_their_columns(tmp_path, names):
    path = written(tmp_path, row(names, id=7), {**row(names, id=8), **({"label": 2} if "label" in names else {})})
    found = examples(path)
    format = SEEN[names]
    assert found.format.name == format and any(f": read as {format}" in line for line in found.told)
    kept = set(names.split(", ")) - ({"prompt"} if format == "messages" else set())
    assert set(found.train.column_names) == kept | ({"id"} if format == "prompt" else set())
    assert found.conversational is (format == "messages")


def test_columns_that_no_format_has_are_told(tmp_path):
    path = written(tmp_path, row("text, id, source"))
    assert examples(path).told == (f"{path}: columns text: read as text", f"{path}: not used: id, source")


def test_other_columns_are_kept_for_reward_functions(tmp_path):
    path = written(
        tmp_path, row("prompt", n=1, x={"a": [1]}, y=None, chosen="c"), row("prompt", n=2, x=3, y=0.5, chosen="c")
    )
    found = examples(path)
    assert columns(found.train) == {
        "prompt": ["prompt"] * 2,
        "n": [1, 2],
        "x": [{"a": [1]}, 3],
        "y": [None, 0.5],
        "chosen": ["c"] * 2,
    }
    assert f"{path}: kept for reward functions: n, x, y, chosen" in found.told


def test_answers_beside_prompts_are_offered(tmp_path):
    path = written(tmp_path, row("prompt, response"))
    assert f"{path}: answers are read with --set data.columns.completion=response" in examples(path).told
    found = examples(path, columns={"completion": "response"})
    assert columns(found.train) == {"prompt": ["prompt"], "completion": ["response"]}


def test_chats_are_kept_beside_lists_of_other_things(tmp_path):
    found = examples(written(tmp_path, {"prompt": [ASK], "answers": [1, 2]}))
    assert found.train[0] == {"prompt": [ASK], "answers": [1, 2]} and len(found.chats) == 1


def test_columns_of_other_names_are_mapped(tmp_path):
    path = written(tmp_path, row("question, answer, text"))
    found = examples(path, columns={"prompt": "question", "completion": "answer"}, format="prompt_completion")
    assert columns(found.train) == {"prompt": ["question"], "completion": ["answer"]}
    assert f"{path}: columns question, answer: read as prompt_completion" in found.told


def test_a_column_that_is_mapped_is_not_read_as_another_too(tmp_path):
    found = examples(written(tmp_path, row("text, completion")), columns={"prompt": "text"})
    assert columns(found.train) == {"prompt": ["text"], "completion": ["completion"]}


def test_a_mapping_wins_over_a_column_of_that_name(tmp_path):
    found = examples(written(tmp_path, row("text, body")), columns={"text": "body"})
    assert columns(found.train) == {"text": ["body"]}


CURES = {
    "question, answer": "to read them as prompt_completion: "
    "--set data.columns.prompt=question --set data.columns.completion=answer",
    "conversation": "to read them as messages: --set data.columns.messages=conversation",
    "sentence, sentiment": "to read them as labels: --set data.columns.text=sentence "
    "--set data.columns.label=sentiment",
    "promt, completion": "to read them as prompt_completion: --set data.columns.prompt=promt",
    "content": "to read them as text: --set data.columns.text=content",
    "a, b": "has the columns a, b, which are no format's (messages: messages; prompt_completion: prompt, completion;",
}


@pytest.mark.parametrize("names", CURES)
def test_columns_of_others_are_refused_with_the_settings_that_read_them(tmp_path, names):
    path = written(tmp_path, row(names))
    said = refusal(path)
    assert f"{path} has the columns {names}" in said and CURES[names] in said
    if "--set" in said and "YOURS" not in said:
        pairs = [word.split("=") for word in said.split() if "data.columns" in word]
        mapping = {ours.rpartition(".")[2]: theirs for ours, theirs in pairs}
        values = {"conversation": [ASK, SAY], "sentiment": 1}
        rows = [row(names) | {name: values[name] for name in row(names) if name in values}] * 2
        rows[1] = {**rows[1], **({"sentiment": 2} if "sentiment" in rows[1] else {})}
        assert set(examples(written(tmp_path, *rows), columns=mapping).train.column_names) >= mapping.keys()


@pytest.mark.parametrize(
    ("names", "formats"),
    [
        ("messages, text", "messages text"),
        ("messages, chosen, rejected", "messages preference"),
        ("text, prompt, completion", "prompt_completion text"),
        ("prompt, completion, label", "prompt_completion prompt"),
    ],
)
def test_columns_of_two_formats_are_refused_naming_both(tmp_path, names, formats):
    path = written(tmp_path, row(names))
    said = refusal(path)
    assert all(f"--set data.format={format}" in said for format in formats.split())
    for format in formats.split():
        assert examples(path, format=format).format.name == format


def test_a_format_that_the_columns_do_not_make_is_refused(tmp_path):
    path = written(tmp_path, row("text, zzz"))
    said = refusal(path, format="preference")
    assert "data.format=preference needs chosen, rejected" in said and "--set data.columns.chosen=YOURS" in said
    assert "format='mesages' is not known; did you mean 'messages'?" in refusal(path, format="mesages")


def test_a_mapping_to_or_from_nothing_is_refused(tmp_path):
    path = written(tmp_path, row("question, answer"))
    assert "data.columns: 'promt' is no column that a format has; did you mean 'prompt'?" in refusal(
        path, columns={"promt": "question"}
    )
    assert f"data.columns.prompt='questoin': {path} has no such column; did you mean 'question'?" in refusal(
        path, columns={"prompt": "questoin"}
    )


def test_alpaca_is_read_as_a_question_and_an_answer(tmp_path):
    path = written(
        tmp_path,
        {"instruction": "Add.", "input": "2, 2", "output": "4"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "output": "Yo", "system": "Be short."},
    )
    found = examples(path)
    asked = [[turn["content"] for turn in turns] for turns in found.train["prompt"]]
    assert asked == [["Add.\n\n2, 2"], ["Hi"], ["Be short.", "Hi"]]
    assert found.train["completion"][0] == [{"role": "assistant", "content": "4"}]
    assert found.conversational and "(alpaca): read as prompt_completion" in found.told[0]
    assert f"{path}:2: output is None, not text" in refusal(
        written(tmp_path, {"instruction": "a", "output": "b"}, {"instruction": "a", "output": None})
    )


def test_sharegpt_is_read_as_messages(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    path = written(
        tmp_path, {"conversations": turns}, {"conversations": turns, "system": "s"}, {"conversations": [ASK, SAY]}
    )
    found = examples(path)
    system = {"role": "system", "content": "s"}
    assert list(found.train["messages"]) == [[ASK, SAY], [system, ASK, SAY], [ASK, SAY]]
    assert "(sharegpt): read as messages" in found.told[0]
    path = written(tmp_path, {"conversations": turns}, {"conversations": [{"from": "alien", "value": "x"}]})
    assert f"{path}:2: turn 1 is from 'alien'; known are human, user, gpt" in refusal(path)
    path = written(tmp_path, {"conversations": turns}, {"conversations": "x"})
    assert f"{path}:2: conversations is 'x', not a list of objects" in refusal(path)


def test_a_prompt_that_whole_chats_repeat_is_left_to_them(tmp_path):
    """As in data sets of feedback, whose prompt is text beside chats that begin with it."""
    path = written(tmp_path, {"prompt": "a", "chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "c"}]})
    assert examples(path).train.column_names == ["chosen", "rejected"]
    said = refusal(written(tmp_path, {"prompt": "z", "chosen": [ASK, SAY], "rejected": [ASK, SAY]}))
    assert "prompt is text, but chosen is" in said


def test_files_of_two_formats_are_refused(tmp_path):
    one = write_jsonl(tmp_path / "a.jsonl", [row("text")])
    other = write_jsonl(tmp_path / "b.jsonl", [row("messages")])
    assert refusal(one, other) == (
        f"data.train: {one} is text, but {other} is messages; files of one setting are of one format"
    )


def test_a_table_without_names_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("good film,1\nbad film,0\n")
    assert f"{path} has the columns good film, 1, which are no format's" in refusal(path)


def test_labels_are_numbered_by_name_or_value(tmp_path):
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(("10", "2", "-1x", "2"))]
    found = examples(write_csv(tmp_path / "a.csv", rows))
    assert found.labels == ("2", "10", "-1x") and list(found.train["label"]) == [1, 0, 2, 0]
    assert found.told[-2:] == (
        "data.train: 3 classes: 2 (2), 10 (1), -1x (1)",
        "data.train: 3 classes in 4 rows: is label the column that is meant?",
    )
    rows = [{"text": "t", "label": label} for label in (True, False, True, False, True)]
    found = examples(write_jsonl(tmp_path / "a.jsonl", rows))
    assert found.labels == ("false", "true") and list(found.train["label"]) == [1, 0, 1, 0, 1]
