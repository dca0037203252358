"""accelerate: an own loop with micro-batches, where every weight is updated within the last one's backward pass."""

import tempfile

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
text = torch.tensor(list(open(__file__, "rb").read())).unfold(0, 64, 16)

accelerator = Accelerator(gradient_accumulation_steps=2)
model = hybridopt.wrap(LlamaForCausalLM(config), policy="adalomo")
# accelerator.clip_grad_norm_ would find no gradients, and is refused: the optimizer clips
optimizer = model.hybrid.optimizer(lr=1e-2, release="fused", clip=1.0, clip_mode="previous")
model, optimizer, batches = accelerator.prepare(model, optimizer, DataLoader(text, batch_size=8, shuffle=True))

for epoch in range(6):
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(input_ids=batch, labels=batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    norm = optimizer.optimizer.grad_norm  # of all gradients, though none is there any more
    print(f"epoch {epoch}: loss {loss.item():.2f}, gradient norm {float(norm):.2f}")

with tempfile.TemporaryDirectory() as folder:
    accelerator.save_state(folder)  # weights, state and random numbers: a run that is continued has the same bits
    accelerator.load_state(folder)
    accelerator.unwrap_model(model).hybrid.save_pretrained(f"{folder}/model")
