"""Saving that is killed, and saving where there is no room."""

import os
import random
import resource
import signal
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

import hybridopt
from hybridopt import HybridOptError
from hybridopt.training.output import folder as result
from support.attacks import Attack
from support.children import fork, status
from support.saved import SCENES, logits, train
from support.tiny_chat import tokenizer

SCENE, WHOLE = "lora-norms", "full"


@cache
def versions(scene):
    """A model in two states, and what each of them says."""
    model = SCENES[scene].wrapped()
    train(model, 2)
    first = {name: x.clone() for name, x in model.state_dict().items()}, logits(model)
    train(model, 2)
    return model, first, ({name: x.clone() for name, x in model.state_dict().items()}, logits(model))


def _as(state, scene=SCENE):
    model = versions(scene)[0]
    model.load_state_dict(state)
    return model


def _loaded(folder, scene=SCENE):
    """Which version a folder holds, 0 or 1."""
    found = logits(hybridopt.from_pretrained(SCENES[scene].base(), folder))
    same = [number for number in (0, 1) if torch.equal(found, versions(scene)[1 + number][1])]
    assert same, "the folder loads, and says what neither version says"
    return same[0]


def _save(model, folder):
    model.hybrid.save_pretrained(folder)


def _save_result(model, folder):
    """As a training run does: a whole model in several files, with tokenizer and card."""
    result.save(model, folder, tokenizer(), {"base_model": "org/base"}, max_shard_size="100KB")


def killed_result(seed):
    """The same of the result of a training run: the version before is the same kind of folder."""
    return killed(seed, WHOLE, _save_result)


def killed(seed, scene=SCENE, save=_save):
    """Kill a process that saves the second version over the first, at a random moment."""
    rng, (_, old, new) = random.Random(seed), versions(scene)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        save(_as(old[0], scene), folder)
        (folder / "run.yaml").write_text("mine")
        start = time.perf_counter()
        save(_as(old[0], scene), folder)
        usual = time.perf_counter() - start
        model = _as(new[0], scene)
        child = fork(lambda: save(model, folder))
        time.sleep(rng.uniform(0, 1.2) * usual)
        os.kill(child, signal.SIGKILL)
        ended = "killed" if status(child) else "had saved"
        try:
            number = _loaded(folder, scene)
        except HybridOptError as error:
            raise AssertionError(f"neither version loads: {error}") from error
        assert ended == "killed" or number == 1, "saved without an error, and the old version loads"
        save(_as(new[0], scene), folder)
        assert _loaded(folder, scene) == 1, "saving after the kill did not take"
        assert (folder / "run.yaml").read_text() == "mine", "a file of others was lost"
        strays = [path.name for path in folder.iterdir() if path.name.startswith(".hybridopt")]
        assert not strays, f"left over: {strays}"
        return f"{ended}, {'new' if number else 'old'} version"


def full(seed):
    """Save the second version over the first where files may have so many bytes and no more."""
    rng, (_, old, new) = random.Random(seed), versions(SCENE)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        _as(old[0]).hybrid.save_pretrained(folder)
        most = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        limit = rng.randrange(1, most + most // 4)
        model = _as(new[0])

        def save():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                model.hybrid.save_pretrained(folder)
            except HybridOptError as error:
                os._exit(2 if str(folder) in str(error) else 3)

        ended = status(fork(save))
        assert ended in (0, 2), f"not a HybridOptError that names the folder (exit status {ended})"
        try:
            number = _loaded(folder)
        except HybridOptError as error:
            raise AssertionError(f"nothing loads after an error while saving: {error}") from error
        assert number == (ended == 0), "the version that loads is not the one that was said"
        return "refused" if ended else "there was room"


ATTACKS = {
    "kill -9 while saving": Attack(
        "the process is killed at a random moment of `save_pretrained`",
        "the old version or the new one loads bit for bit, and the next save works",
        killed,
        rounds=100,
        few=2,
    ),
    "kill -9 while saving a result": Attack(
        "the process is killed at a random moment of saving a whole model with tokenizer and card",
        "the old version or the new one loads bit for bit, files of others stay, and the next save works",
        killed_result,
        rounds=100,
        few=2,
    ),
    "disk full while saving": Attack(
        "a file cannot grow beyond a random size",
        "HybridOptError that names the folder; the old version loads bit for bit",
        full,
        rounds=40,
        few=2,
    ),
}
