"""Lightning: MeZO by manual optimization, then AdaLomo within the backward pass, over two micro-batches each."""

import lightning
import torch
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
text = torch.tensor(list(open(__file__, "rb").read())).unfold(0, 64, 32)


class Automatic(lightning.LightningModule):
    def __init__(self, policy, **options):
        super().__init__()
        self.model = hybridopt.wrap(LlamaForCausalLM(config), policy=policy)
        self.options, self.losses = options, []

    def loss(self, batch):
        loss = self.model(input_ids=batch, labels=batch).loss
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch, index):
        return self.loss(batch)

    def configure_optimizers(self):
        return self.model.hybrid.optimizer(**self.options)


class Manual(Automatic):
    automatic_optimization = False  # so that the closure computes the loss and nothing else

    def training_step(self, batch, index):
        self.optimizers().step(lambda: self.loss(batch))  # two losses, no gradient


def fit(module, epochs, **settings):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="auto", devices=1, **quiet, **settings)
    trainer.fit(module, DataLoader(text, batch_size=8, shuffle=True))
    print(f"{type(module).__name__}: from loss {module.losses[0]:.2f} to loss {module.losses[-1]:.2f}")


fit(Manual("mezo", lr=3e-4), epochs=8)
# gradient_clip_val would find no gradients, and is refused: the optimizer clips
fused = {"lr": 1e-2, "release": "fused", "clip": 1.0, "clip_mode": "previous"}
fit(Automatic("adalomo", **fused), epochs=8, accumulate_grad_batches=2, precision="bf16-mixed")
