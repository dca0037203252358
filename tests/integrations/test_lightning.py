"""Lightning's Trainer: automatic and manual optimization, accumulation, precision, its clipping, checkpoints."""

import lightning
import pytest
import torch

import hybridopt
from hybridopt import HybridOptError
from support.models import tiny_llama
from support.saved import bits, equal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


class Module(lightning.LightningModule):
    """A language model; `how` is for its optimizer."""

    def __init__(self, policy="adalomo", **how):
        super().__init__()
        self.model, self.how, self.losses = hybridopt.wrap(tiny_llama(), policy), {"lr": 1e-2} | how, []

    def loss(self, batch):
        loss = self.model(input_ids=batch, labels=batch).loss
        self.losses.append(float(loss))
        return loss

    def training_step(self, batch, index):
        return self.loss(batch)

    def configure_optimizers(self):
        return self.model.hybrid.optimizer(**self.how)


class Manual(Module):
    """The same loop by hand; `clip` is its own call."""

    automatic_optimization = False

    def __init__(self, *args, clip=None, hold=False, **how):
        super().__init__(*args, **how)
        self.clip, self.hold = clip, hold

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        if optimizer.optimizer.probes_needed:
            optimizer.step(lambda: self.loss(batch))
            return
        optimizer.zero_grad()
        if self.hold:
            with optimizer.optimizer.hold():
                self.manual_backward(self.loss(batch))
        else:
            self.manual_backward(self.loss(batch))
        if self.clip:
            self.clip_gradients(optimizer, gradient_clip_val=self.clip)
        optimizer.step()


def data(rows=16):
    tokens = torch.randint(3, 96, (rows, 8), generator=torch.Generator().manual_seed(0))
    return torch.utils.data.DataLoader(tokens, batch_size=4)


def fit(module, checkpoint=None, epochs=2, rows=16, **settings):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, **quiet | settings)
    trainer.fit(module, data(rows), ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"accumulate_grad_batches": 3}])
def test_fused_updates_are_those_of_kept_gradients(settings):
    """Also where gradients of several batches are added up, of fewer at the end of an epoch."""
    one, other = Module(release="fused"), Module()
    for module in (one, other):
        fit(module, **settings)
    assert equal(bits(one.model), bits(other.model)) and not equal(bits(one.model), bits(tiny_llama()))
    updates = {1: 8, 2: 4, 3: 4}[settings.get("accumulate_grad_batches", 1)]
    assert one.optimizers().optimizer.param_groups[0]["step"] == updates
    assert not any(p.grad is not None for p in one.model.parameters())


@pytest.mark.parametrize(
    "settings", [{"gradient_clip_val": 0.1}, {"gradient_clip_val": 0.1, "precision": "bf16-true"}]
)
def test_its_clipping_is_done_or_refused_before_anything_is_trained(settings):
    module = Module(release="fused")
    if "precision" in settings:
        module.model.bfloat16()
    before = bits(module.model)
    with pytest.raises(HybridOptError, match=r"before the loop can clip by gradient_clip_val=0.1.*'previous'"):
        fit(module, **settings, accumulate_grad_batches=2)
    assert equal(bits(module.model), before)
    clipped, free = Module("sgd"), Module("sgd")
    fit(clipped, **settings), fit(free)
    assert not equal(bits(clipped.model), bits(free.model))
    fit(Module(release="fused", clip=0.1, clip_mode="previous"), **settings)


def test_losses_that_are_scaled_are_refused():
    module = Module(release="fused")
    before = bits(module.model)
    module.on_train_start = lambda: setattr(module.trainer.precision_plugin, "scaler", torch.amp.GradScaler("cpu"))
    with pytest.raises(HybridOptError, match="cannot undo the loss scaling of fp16.*take bf16"):
        fit(module)
    assert equal(bits(module.model), before)


def test_clipping_by_hand_is_refused_unless_gradients_are_held():
    with pytest.raises(HybridOptError, match=r"clip_gradients\(..., 0.1\) comes too late.*hold"):
        fit(Manual("sgd", clip=0.1, release="fused"))
    held, kept = Manual("sgd", clip=0.1, hold=True, release="fused"), Manual("sgd", clip=0.1)
    fit(held), fit(kept)
    assert equal(bits(held.model), bits(kept.model))


def test_automatic_optimization_cannot_probe_and_manual_can():
    with pytest.raises(HybridOptError, match=r"self.automatic_optimization = False.*step\(closure\)"):
        fit(Module("mezo"))
    module, plain = Manual("mezo", lr=1e-3), hybridopt.wrap(tiny_llama(), "mezo")
    fit(module, epochs=4, rows=4)
    assert module.losses[-1] < module.losses[0]
    optimizer = plain.hybrid.optimizer(lr=1e-3)
    for batch in [*data(4)] * 4:
        optimizer.step(lambda batch=batch: plain(input_ids=batch, labels=batch).loss)
    assert equal(bits(module.model), bits(plain))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("kind", [Module, Manual])
def test_precisions(kind, precision):
    module = kind("frugal")
    fit(module, epochs=4, precision=precision)
    assert sum(module.losses[-4:]) < sum(module.losses[:4]) - 0.4
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16 if "true" in precision else torch.float32}


@pytest.mark.parametrize("how", [{"policy": "frugal"}, {"release": "fused"}])
def test_a_resumed_run_ends_in_the_bits_of_an_uninterrupted_one(how, tmp_path):
    whole, half = Module(**how), Module(**how)
    fit(whole, epochs=3)
    fit(half, epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    resumed = Module(**how)
    fit(resumed, tmp_path / "half.ckpt", epochs=3)
    assert equal(bits(resumed.model), bits(whole.model))
