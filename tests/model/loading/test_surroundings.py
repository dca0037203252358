"""Folders as users have them: of somebody else, linked, in shards, not whole; placed to the same bits, or refused."""

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridopt
from hybridopt import HybridOptError, Placement
from support.children import fork, status
from support.models import batch
from support.placed import folder, model_at

WHOLE, SECOND = "model.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
NOBODY = 65534


def copied(tmp_path):
    return Path(shutil.copytree(folder(), tmp_path / "model"))


def sharded(tmp_path):
    path = copied(tmp_path)
    tensors = load_file(path / WHOLE)
    (path / WHOLE).unlink()
    names = sorted(tensors)
    files = dict.fromkeys(names[: len(names) // 2], "model-00001-of-00002.safetensors")
    files |= dict.fromkeys(names[len(names) // 2 :], SECOND)
    for file in set(files.values()):
        save_file({n: tensors[n] for n in names if files[n] == file}, path / file)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return path


def linked(tmp_path):
    """As the Hugging Face hub keeps what it has downloaded."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "f00"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(folder().iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def pickled(tmp_path):
    path = copied(tmp_path)
    torch.save(load_file(path / WHOLE), path / "pytorch_model.bin")
    return path


def without(path, name):
    (path / name).unlink()
    return path


def cut(path, size):
    os.truncate(path / SECOND, (path / SECOND).stat().st_size + size if size < 0 else size)
    return path


def pointer(path):
    (path / SECOND).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    return path


def wrong_index(path):
    data = json.loads((path / INDEX).read_text())
    first = min(data["weight_map"])
    data["weight_map"][first] = SECOND
    (path / INDEX).write_text(json.dumps(data))
    return path


FOLDERS = {
    "shards": (sharded, None),
    "a snapshot of the hub": (linked, None),
    "pickles beside safetensors": (pickled, None),
    "pickles": (lambda t: without(pickled(t), WHOLE), r"pytorch_model.bin: save it as safetensors \(model.save_pre"),
    "a shard less": (lambda t: without(sharded(t), SECOND), f"{SECOND}: there is no such file"),
    "a shard cut": (lambda t: cut(sharded(t), -100), f"{SECOND} cannot be read.*restore the file"),
    "a shard cut in its header": (lambda t: cut(sharded(t), 20), f"{SECOND} cannot be read.*restore the file"),
    "an empty shard": (lambda t: cut(sharded(t), 0), f"{SECOND} cannot be read.*restore the file"),
    "a pointer of Git LFS": (lambda t: pointer(sharded(t)), f"{SECOND} cannot be read.*git lfs pull"),
    "an index of other files": (lambda t: wrong_index(sharded(t)), f"{SECOND} has no .*which {INDEX} says"),
}


def load(path):
    return hybridopt.load(path, placement=Placement("disk", slots=2))


def loss(model):
    return model(**batch(model)).loss.detach()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_placed_as_it_is_or_refused(tmp_path, name):
    make, said = FOLDERS[name]
    path = make(tmp_path)
    if said is None:
        assert torch.equal(loss(load(path)), loss(model_at("resident")))
    else:
        with pytest.raises(HybridOptError, match=said):
            load(path)


@pytest.fixture
def open_to_all():
    """A folder that other users can enter, as they cannot those that pytest makes."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.getuid() != 0, reason="another user is needed")
def test_a_folder_of_another_user_is_used_if_it_may_be_read(open_to_all):
    path, expected = copied(open_to_all), loss(model_at("resident"))

    def modes(of_folder, of_weights):
        for file in path.iterdir():
            file.chmod(0o444)
        (path / WHOLE).chmod(of_weights)
        path.chmod(of_folder)

    def as_nobody(said=None):
        def work():
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            if said is None:
                assert torch.equal(loss(load(path)), expected)
            else:
                with pytest.raises(HybridOptError, match=said):
                    hybridopt.load(path, quantization="nf4", placement=Placement("disk", cache=path / "kept"))

        return status(fork(work))

    modes(0o555, 0o444)
    assert as_nobody() == 0
    assert as_nobody("cache=.*cannot be made.*Permission denied.*give another folder") == 0
    modes(0o555, 0o400)
    assert as_nobody(f"{WHOLE} cannot be read by this user: permission denied") == 0
    modes(0o700, 0o444)
    assert as_nobody("path=.*cannot be read.*Permission denied") == 0
