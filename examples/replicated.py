"""accelerate launch and DDP: every process has all weights; gradients are averaged before each update.

accelerate launch --multi_gpu --num_processes 2 examples/replicated.py
(without a GPU: ACCELERATE_USE_CPU=true before it)
"""

import torch
from accelerate import Accelerator
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
text = torch.tensor(list(open(__file__, "rb").read())).unfold(0, 64, 16)


def base_model():
    """Return the model whose weights stay as they are, the same on all ranks."""
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


accelerator = Accelerator(gradient_accumulation_steps=2)
lora = LoraConfig(r=8, target_modules="all-linear", modules_to_save=["lm_head", "embed_tokens"])
model = hybridopt.wrap(base_model(), policy="frugal", density=0.25, update_gap=10, peft_config=lora)
optimizer = model.hybrid.optimizer(lr=1e-2)
batches = DataLoader(text, batch_size=4, shuffle=True, drop_last=True)
model, optimizer, batches = accelerator.prepare(model, optimizer, batches)  # each rank gets its own batches

for epoch in range(4):
    for batch in batches:
        with accelerator.accumulate(model):  # ranks talk in the last micro-batch alone
            loss = model(input_ids=batch, labels=batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    mean = accelerator.reduce(loss.detach(), "mean")
    accelerator.print(f"epoch {epoch}: loss {mean.item():.2f} in {len(batches)} batches a rank")

accelerator.save_state("checkpoint")  # weights, state and random numbers; a run that is continued has the same bits
accelerator.wait_for_everyone()  # the first rank writes most of it
accelerator.load_state("checkpoint")
if accelerator.is_main_process:  # all ranks have the same adapters
    accelerator.unwrap_model(model).hybrid.save_pretrained("adapters")
    hybridopt.from_pretrained(base_model(), "adapters")
accelerator.wait_for_everyone()
accelerator.end_training()
