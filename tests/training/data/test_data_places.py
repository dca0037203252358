"""Where examples lie: files, folders, saved data sets, the hub; and what is said where nothing lies."""

import subprocess
import sys

import pytest

from hybridopt.training.data import hub
from hybridopt.training.data.hub import HubSplit
from hybridopt.training.data.places import places
from support.data_files import columns, examples, refusal, write_csv, write_jsonl

ROWS = [{"text": "one"}, {"text": "two"}]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "data"
    made.mkdir()
    return made


def test_files_of_a_folder_are_joined_by_name(folder):
    write_jsonl(folder / "b.jsonl", [{"text": "two"}])
    write_jsonl(folder / "a.jsonl", [{"text": "one"}])
    (folder / "README.md").write_text("about")
    (folder / ".hidden.jsonl").write_text("{")
    found = examples(folder)
    assert columns(found.train) == {"text": ["one", "two"]} and found.origin(1) == f"{folder}/b.jsonl:1"
    assert found.told == (f"{folder}/a.jsonl and 1 more: columns text: read as text",)


def test_folders_that_are_not_to_be_joined_are_refused(folder):
    write_jsonl(folder / "train.jsonl", ROWS)
    write_jsonl(folder / "test.jsonl", ROWS)
    cure = f"data.train: {folder}/train.jsonl and data.eval: {folder}/test.jsonl"
    assert f"data.train: the folder {folder} has parts to be kept apart (train.jsonl, test.jsonl)" in refusal(folder)
    assert cure in refusal(folder)
    (folder / "test.jsonl").unlink()
    assert len(examples(folder).train) == 2
    write_csv(folder / "b.csv", ROWS)
    assert "has files of several kinds, such as b.csv and train.jsonl" in refusal(folder)


def test_folders_without_examples_are_refused(folder):
    assert f"data.train: the folder {folder} has no file that is read (.jsonl" in refusal(folder)
    (folder / "notes.docx").write_text("a")
    assert "it holds notes.docx" in refusal(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    assert f"{folder} is the folder of a model, not of examples" in refusal(folder)


def test_missing_files_are_named_with_near_ones(folder):
    path = write_jsonl(folder / "examples.jsonl", ROWS)
    assert (
        refusal(folder / "exmaples.jsonl") == f"data.train: there is no {folder}/exmaples.jsonl; did you mean {path}?"
    )
    assert f"{folder} has examples.jsonl" in refusal(folder / "zzz.csv")
    assert f"(and no folder {folder}/none)" in refusal(folder / "none" / "a.jsonl")


def test_files_of_no_known_kind_are_refused(folder):
    (folder / "a.xlsx").write_text("a")
    assert f"data.train: {folder}/a.xlsx is no kind of file that is read: .jsonl, .ndjson" in refusal(
        folder / "a.xlsx"
    )
    assert "a.parquet.gz is no kind of file" in refusal(write_jsonl(folder / "a.parquet.gz", ROWS))


def test_no_files_at_all_are_refused():
    assert "data.train is empty; give a file, a folder, or an id on the hub" in refusal()


def test_what_cannot_be_read_is_refused(folder, monkeypatch):
    path = write_jsonl(folder / "a.jsonl", ROWS)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    assert refusal(path) == f"{path} cannot be read: Permission denied"


def test_saved_data_sets_are_read(folder):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    saved = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features)
    saved.save_to_disk(folder / "one")
    DatasetDict({"train": saved, "test": saved.select([1])}).save_to_disk(folder / "parts")
    found = examples(folder / "one", eval=f"{folder}/parts:test")
    assert (
        found.labels == ("neg", "pos") and list(found.train["label"]) == [1, 0, 1] and list(found.eval["label"]) == [0]
    )
    assert found.origin(2) == f"{folder}/one, row 3" and found.files[0].sha256 is None and found.files[0].revision
    assert f"{folder}/parts:tset: there is no split 'tset'; did you mean 'test'?" in refusal(f"{folder}/parts:tset")
    (folder / "one" / "state.json").write_text("{")
    assert f"{folder}/one is no whole data set of save_to_disk" in refusal(folder / "one")


def test_a_class_that_is_missing_is_a_bad_row(folder):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features).save_to_disk(folder / "one")
    assert refusal(folder / "one") == f"{folder}/one, row 2: label is missing (null)"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:test", ("org/name", None, "test")),
        ("org/na.me-1/config:validation[:10%]", ("org/na.me-1", "config", "validation[:10%]")),
    ],
)
def test_ids_of_the_hub_name_config_and_split(name, parts):
    (found,) = places(name, "data.train")
    assert isinstance(found, HubSplit) and (found.id, found.config, found.split) == parts and found.name == name


@pytest.fixture
def loaded(monkeypatch):
    """Let the hub give what a list holds, or raise it; return what it was asked for."""
    import datasets

    asked, answers = [], []

    def load(*names, split, **_):
        asked.append((*names, split))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_reachable", lambda id: True)
    return asked, answers


def test_a_split_of_the_hub_is_read_and_partly_held_out(loaded):
    from datasets import Dataset

    asked, answers = loaded
    answers += [Dataset.from_dict({"text": ["a", "b", "c", "d"], "id": [1, 2, 3, 4]})]
    found = examples("org/name/config:train", eval=0.25)
    assert asked == [("org/name", "config", "train")] and (len(found.train), len(found.eval)) == (3, 1)
    assert found.train.column_names == ["text"] and found.origin(0).startswith("org/name/config:train, row ")
    assert found.files[0].path == "org/name/config:train" and found.files[0].revision and found.files[0].rows == 4


HUB = {
    "offline": (ConnectionError("Couldn't reach 'org/name' on the Hub (OfflineModeIsEnabled)"), "there is no network"),
    "config": (
        ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']"),
        "named as org/name/CONFIG:train",
    ),
    "split": (ValueError("Unknown split \"train\". Should be one of ['test']."), "a split is named as org/name:SPLIT"),
    "other": (OSError("disk full"), "cannot be loaded from the hub: OSError: disk full"),
}


@pytest.mark.parametrize("case", HUB)
def test_what_the_hub_does_not_give_is_told(loaded, case):
    error, said = HUB[case]
    loaded[1].append(error)
    text = refusal("org/name")
    assert text.startswith("org/name") and said in text


def test_a_data_set_that_is_not_there_is_told(loaded):
    from datasets.exceptions import DatasetNotFoundError

    loaded[1].append(DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub or cannot be accessed."))
    assert "no such file or folder, and no such data set on the hub, or it is private: hf auth login" in refusal(
        "org/name"
    )


def test_without_network_it_is_told_at_once():
    assert "org/nothing: no file or folder of that name is here, it is not in the hub's cache" in refusal(
        "org/nothing"
    )


def test_reading_code_is_imported_without_the_libraries():
    code = "import sys, hybridopt.training.data.reading, hybridopt.training.data.template; "
    code += "print([name for name in ('datasets', 'pyarrow', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
