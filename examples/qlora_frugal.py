"""nf4 base + LoRA + FRUGAL on a small Llama: what is trained how, what it costs, training, saving, loading.

The model is random so that nothing is downloaded; put AutoModelForCausalLM.from_pretrained(...) in its place.
"""

import tempfile
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

import hybridopt

TEXT = torch.tensor(list(Path(__file__).read_bytes()))  # bytes as tokens: a text that every machine has


def base_model() -> LlamaForCausalLM:
    """The same random weights at every call, as from_pretrained would give the same ones."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, num_key_value_heads=2, **sizes))


def batch(size: int = 8, length: int = 64) -> torch.Tensor:
    """Random windows of the text."""
    starts = torch.randint(len(TEXT) - length, (size,))
    return torch.stack([TEXT[s : s + length] for s in starts])


model = hybridopt.wrap(
    base_model(),
    policy="frugal",
    update_gap=20,
    quantization="nf4",
    peft_config=LoraConfig(r=8, target_modules="all-linear"),
)
print(model.hybrid.report())

optimizer = model.hybrid.optimizer(lr=1e-2)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=60)
for step in range(60):
    tokens = batch()
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step:2d}  loss {loss.item():.3f}")

model.eval()
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    model.hybrid.save_pretrained(folder)
    again = hybridopt.from_pretrained(base_model(), folder).eval()
    tokens = batch()
    assert torch.equal(model(tokens).logits, again(tokens).logits)
    print("loaded:", *sorted(p.name for p in Path(folder).iterdir()))
