"""Where a model was wanted and a folder has none, the error says how to come to one."""

import pytest

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.files.model_folders import to_train_on
from hybridopt.planning.subject.source import subject_of
from hybridopt.training.running.preparing.preflight import check_model

DOORS = {"load": hybridopt.load, "plan": subject_of, "train": lambda folder: check_model(str(folder))}


def said(door, folder):
    with pytest.raises(HybridOptError) as caught:
        DOORS[door](folder)
    return str(caught.value)


@pytest.fixture(params=["adapter_config.json", "hybridopt_config.json"])
def trained(request, tmp_path):
    folder = tmp_path / "out put"
    folder.mkdir()
    (folder / request.param).write_text("{}")
    return folder


@pytest.mark.parametrize("door", DOORS)
def test_adapters_and_changes_are_to_be_merged(door, trained):
    assert f"`hybridopt merge '{trained}' -o '{trained}-merged'` and give {trained}-merged" in said(door, trained)
    assert to_train_on(trained).startswith("make a whole model by `hybridopt merge")
    (trained / "config.json").write_text("{}")
    assert to_train_on(trained) == "give its result as MODEL and another -o"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("below", ["model", "snapshots/0123"])
def test_the_only_model_below_a_folder_is_named(door, below, tmp_path):
    (tmp_path / below).mkdir(parents=True)
    assert "give the folder that save_pretrained wrote" in said(door, tmp_path)
    (tmp_path / below / "config.json").write_text("{}")
    assert f"did you mean {tmp_path / below}?" in said(door, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    assert "did you mean" not in said(door, tmp_path)
