"""Checkpoints that are not whole: an older one, or a clear refusal; never fresh state without a word."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.integrations.trainer import HybridTrainer
from hybridopt.integrations.trainer_checkpoints import ResumeCheck, check_checkpoint, last_complete_checkpoint
from support.saved import bits, equal
from support.trainers import KINDS, LR, arguments, data, wrapped

pytestmark = pytest.mark.slow
OPTIONS = {"max_steps": 6, "save_steps": 2, "eval_strategy": "no", "gradient_accumulation_steps": 1}


def trainer(folder, kind="full", **options):
    return HybridTrainer(
        wrapped(kind), arguments(folder, **OPTIONS | {"learning_rate": LR}), train_dataset=data(), **options
    )


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Three checkpoints of a whole run, by kind of model."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        trainer(folder, kind).train()
    return folders


@pytest.fixture
def folder(originals, tmp_path):
    return shutil.copytree(originals["full"], tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def lie(path):
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"global_step": 5}))


DAMAGE = {
    "no state": ("trainer_state.json", lambda path: path.unlink(), "interrupted"),
    "half a state": ("trainer_state.json", cut, "trainer_state.json cannot be read"),
    "empty state": ("trainer_state.json", empty, "trainer_state.json cannot be read"),
    "another step": ("trainer_state.json", lie, "is of step 5"),
    "state is a list": ("trainer_state.json", lambda path: path.write_text("[]"), "cannot be read"),
    "no optimizer": ("optimizer.pt", lambda path: path.unlink(), "no optimizer.pt.*fresh state"),
    "half an optimizer": ("optimizer.pt", cut, "optimizer.pt is not whole"),
    "empty optimizer": ("optimizer.pt", empty, "optimizer.pt is not whole"),
    "no schedule": ("scheduler.pt", lambda path: path.unlink(), "no scheduler.pt"),
    "half a schedule": ("scheduler.pt", cut, "scheduler.pt is not whole"),
    "half the random state": ("rng_state.pth", cut, "rng_state.pth is not whole"),
    "half the weights": ("model.safetensors", cut, "model.safetensors cannot be read"),
    "no weights": ("model.safetensors", lambda path: path.unlink(), "has no weights"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_checkpoint_that_is_not_whole(folder, how):
    name, damage, words = DAMAGE[how]
    newest = folder / "checkpoint-6"
    damage(newest / name)
    with pytest.raises(HybridOptError, match=f"resume_from_checkpoint: .*{words}"):
        check_checkpoint(newest)
    with pytest.warns(HybridOptWarning, match=f"{words}.*training resumes from .*checkpoint-4"):
        assert last_complete_checkpoint(folder) == str(folder / "checkpoint-4")
    for older in ("checkpoint-2", "checkpoint-4"):
        shutil.rmtree(folder / older)
    with pytest.raises(HybridOptError, match=f"no complete checkpoint.*{words}"):
        last_complete_checkpoint(folder)


def test_adapters_are_looked_at_too(originals, tmp_path):
    folder = shutil.copytree(originals["lora-nf4"], tmp_path / "run")
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-6")
    cut(folder / "checkpoint-6" / "adapter_model.safetensors")
    with pytest.warns(HybridOptWarning, match="adapter_model.safetensors"):
        assert last_complete_checkpoint(folder) == str(folder / "checkpoint-4")
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-10")
    with pytest.warns(HybridOptWarning, match="checkpoint-10.*is of step 4"):
        assert last_complete_checkpoint(folder) == str(folder / "checkpoint-4")


def test_shards_that_the_index_names(folder):
    newest = folder / "checkpoint-6"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (newest / "model.safetensors").rename(newest / "model-00001-of-00002.safetensors")
    (newest / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HybridOptError, match="no model-00002-of-00002.safetensors"):
        check_checkpoint(newest)


def test_resuming_goes_on_from_the_newest_complete_one(folder, originals):
    (folder / "checkpoint-6" / "trainer_state.json").unlink()
    cut(folder / "checkpoint-4" / "optimizer.pt")
    resumed = trainer(folder)
    with pytest.warns(HybridOptWarning, match="checkpoint-6.*checkpoint-4.*resumes from .*checkpoint-2"):
        resumed.train(resume_from_checkpoint=True)
    end = originals["full"] / "checkpoint-6"
    weights = load_file(end / "model.safetensors")
    assert equal({name: x for name, x in bits(resumed.model).items() if name in weights}, weights)
    assert equal(resumed.optimizer.state_dict(), torch.load(end / "optimizer.pt", weights_only=True))


def test_whole_checkpoints_say_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        trainer(folder).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("given", ["checkpoint-8", "a\0b", 7])
def test_checkpoints_that_are_none(folder, given):
    with pytest.raises(HybridOptError, match="resume_from_checkpoint"):
        trainer(folder).train(resume_from_checkpoint=given if given == 7 else str(folder / given))


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(HybridOptError, match="no complete checkpoint .it has none at all"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_an_optimizer_of_another_checkpoint(folder):
    shutil.copy(folder / "checkpoint-2" / "optimizer.pt", folder / "checkpoint-4" / "optimizer.pt")
    resumed = trainer(folder)
    with pytest.raises(HybridOptError, match="is of step 4, and the optimizer has taken 2 steps: its optimizer.pt"):
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


@pytest.mark.parametrize(
    ("name", "words"), [("optimizer.pt", "has taken 0 steps"), ("scheduler.pt", "has taken 0 steps")]
)
def test_any_trainer_can_have_the_check(folder, name, words):
    model = wrapped("full")
    (folder / "checkpoint-4" / name).unlink()
    plain = Trainer(
        model,
        arguments(folder, **OPTIONS),
        train_dataset=data(),
        optimizers=(model.hybrid.optimizer(lr=LR), None),
        callbacks=[ResumeCheck()],
    )
    with pytest.raises(HybridOptError, match=words):
        plain.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


class Watched:
    """An optimizer's and a schedule's clock, as the callback sees them."""

    def __init__(self, clock, nonfinite="raise", epoch=4, fp16=False):
        self.optimizer = hybridopt.HybridOptimizer([torch.nn.Parameter(torch.ones(2))], lr=0.1, nonfinite=nonfinite)
        self.optimizer.param_groups[0]["step"] = clock
        self.epoch, self.fp16 = epoch, fp16

    def begin(self, step):
        schedule = type("Schedule", (), {"last_epoch": self.epoch})()
        state = type("State", (), {"global_step": step})()
        ResumeCheck().on_train_begin(self, state, None, optimizer=self.optimizer, lr_scheduler=schedule)


def test_clocks():
    Watched(4).begin(4)
    Watched(4).begin(0)  # a new run
    Watched(3, nonfinite="skip").begin(4)  # the Trainer counts skipped steps too
    Watched(3, fp16=True).begin(4)
    for wrong in (Watched(3), Watched(5), Watched(5, "skip"), Watched(0, "skip"), Watched(0)):
        with pytest.raises(HybridOptError, match="its optimizer.pt is missing or of another checkpoint"):
            wrong.begin(4)
    with pytest.raises(HybridOptError, match="its scheduler.pt is missing"):
        Watched(4, epoch=0).begin(4)
