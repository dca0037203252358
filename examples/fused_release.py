"""Full-parameter training in bfloat16 with AdaLomo: updates inside the backward pass, gradients never all alive."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
model = hybridopt.wrap(LlamaForCausalLM(config).bfloat16(), policy="adalomo")
print(model.hybrid.report())

optimizer = model.hybrid.optimizer(lr=3e-2, release="fused", clip=1.0, clip_mode="previous")
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 40)
text = torch.tensor(list((__doc__ * 8).encode()))[:512].view(2, 2, 128)  # two micro-batches

for step in range(40):
    with optimizer.hold():  # the gradients of all micro-batches but the last are kept
        (model(input_ids=text[0], labels=text[0]).loss / 2).backward()
    loss = model(input_ids=text[1], labels=text[1]).loss
    (loss / 2).backward()  # every weight is updated here, and its gradient freed
    optimizer.step()
    schedule.step()
    if step % 10 == 9:
        print(f"step {step + 1}: loss {loss.item():.2f}, gradient norm {float(optimizer.grad_norm):.2f}")

assert all(p.grad is None for p in model.parameters())
